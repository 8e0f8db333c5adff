//! The one field of a multipart form that routing needs, found without copying a byte of the files beside it.

use memchr::memmem;

/// The longest head of a part, in bytes.
const PART_HEAD_BYTES: usize = 16 << 10;
/// The longest boundary, in bytes (RFC 2046 §5.1.1).
const BOUNDARY_BYTES: usize = 70;

/// The first value of a field. `None` if the body is no such form, breaks off before the field's end, or lacks it.
///
/// Files are no fields, whatever they are called.
pub fn field<'a>(content_type: &str, body: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let boundary = boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    // The first delimiter has no line before it if it begins the body.
    let mut rest = match body.strip_prefix(delimiter.as_bytes().get(2..)?) {
        Some(rest) => rest,
        None => after(&finder, body)?.1,
    };
    loop {
        let part = line_break(rest)?;
        let head_limit = part.len().min(PART_HEAD_BYTES);
        // A part without headers begins with the empty line that ends them.
        let (head, content) = if let Some(content) = part.strip_prefix(b"\r\n") {
            (&[][..], content)
        } else {
            let end = memmem::find(part.get(..head_limit)?, b"\r\n\r\n")?;
            (part.get(..end)?, part.get(end + 4..)?)
        };
        let (content, next) = after(&finder, content)?;
        if is_field(head, name) {
            return Some(content);
        }
        rest = next;
    }
}

/// What is before and after the next delimiter.
fn after<'a>(finder: &memmem::Finder<'_>, body: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = finder.find(body)?;
    Some((body.get(..at)?, body.get(at + finder.needle().len()..)?))
}

/// Steps over the end of a delimiter's line, which may have blanks; `None` after the last delimiter.
fn line_break(rest: &[u8]) -> Option<&[u8]> {
    let blanks = rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    rest.get(blanks..)?.strip_prefix(b"\r\n")
}

/// Whether a part's headers say that it is the field of this name.
fn is_field(head: &[u8], name: &str) -> bool {
    let head = String::from_utf8_lossy(head);
    let disposition = head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case("content-disposition")
            .then_some(value)
    });
    let Some((kind, parameters)) = disposition.and_then(|value| value.split_once(';')) else {
        return false;
    };
    kind.trim().eq_ignore_ascii_case("form-data")
        && parameter(parameters, "name").is_some_and(|given| given == name)
        && parameter(parameters, "filename").is_none_or(|file| file.is_empty())
        && parameter(parameters, "filename*").is_none()
}

/// The boundary of a form's content type.
fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    let boundary = parameter(parameters, "boundary")?;
    let sound = (1..=BOUNDARY_BYTES).contains(&boundary.len())
        && boundary.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !boundary.ends_with(' ');
    (sound && kind.trim().eq_ignore_ascii_case("multipart/form-data")).then_some(boundary)
}

/// The first parameter of this name in a list like `a=b; c="d"`, quotes and their escapes undone.
fn parameter(list: &str, name: &str) -> Option<String> {
    let mut rest = list;
    loop {
        let (key, value) = rest.split_once('=')?;
        let wanted = key.trim().eq_ignore_ascii_case(name);
        let (value, next) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = unquote(quoted)?;
                (value, after.split_once(';').map(|(_, next)| next))
            }
            None => match value.split_once(';') {
                Some((value, next)) => (value.trim().to_owned(), Some(next)),
                None => (value.trim().to_owned(), None),
            },
        };
        if wanted {
            return Some(value);
        }
        rest = next?;
    }
}

/// A quoted string's content, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            // Only these two are ever escaped: other backslashes are those of file names.
            '\\' if chars.as_str().starts_with(['"', '\\']) => value.extend(chars.next()),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=XX";

    #[track_caller]
    fn check(content_type: &str, body: &str, model: Option<&str>) {
        let found = field(content_type, body.as_bytes(), "model");
        assert_eq!(found, model.map(str::as_bytes), "{content_type} {body}");
    }

    fn part(disposition: &str, content: &str) -> String {
        format!("--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
    }

    #[test]
    fn finds_the_first_field_of_the_name() {
        let model = part("name=\"model\"", "whisper");
        let file = part("name=\"file\"; filename=\"model\"", "RIFF\r\n--X\r\n\r\n");
        check(TYPE, &format!("{model}{file}--XX--\r\n"), Some("whisper"));
        check(TYPE, &format!("{file}{model}--XX--"), Some("whisper"));
        let second = part("name=model", "other");
        check(TYPE, &format!("{model}{second}--XX--"), Some("whisper"));
        check(TYPE, &format!("{second}{model}--XX--"), Some("other"));
        let disguised = part("name=\"model\"; filename=\"a\"", "no");
        check(TYPE, &format!("{disguised}{second}--XX--"), Some("other"));
        check(
            TYPE,
            &format!("a preamble\r\n{model}--XX--"),
            Some("whisper"),
        );
        let quoted = "Multipart/Form-Data; charset=utf-8; boundary=\"XX\"";
        check(quoted, &format!("{model}--XX--"), Some("whisper"));
        let plain = "--XX \r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: Form-Data; x=\"a;name=b\"; name=\"model\"\r\n\r\n\r\n--XX--";
        check(TYPE, plain, Some(""));
        check(
            TYPE,
            &format!("--XX\r\n\r\nnameless\r\n{model}--XX--"),
            Some("whisper"),
        );
    }

    #[test]
    fn finds_nothing_in_what_is_no_form() {
        let model = part("name=\"model\"", "whisper");
        let whole = format!("{model}--XX--");
        for kind in [
            "",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"XX",
            "multipart/mixed; boundary=XX",
            "application/json; boundary=XX",
            "multipart/form-data; boundary=YY",
        ] {
            check(kind, &whole, None);
        }
        for body in [
            "",
            "--XX",
            "--XX--",
            "--XX\r\n",
            "{}",
            &model,
            "--XX--\r\nname=model",
        ] {
            check(TYPE, body, None);
        }
        check(TYPE, &format!("--XX--\r\n{whole}"), None);
        check(TYPE, &part("name=\"model", "x"), None);
        check(
            TYPE,
            &format!("{}--XX--", part("name=\"Model\"", "x")),
            None,
        );
        let endless = format!("--XX\r\nx: {}\r\n\r\n", "x".repeat(PART_HEAD_BYTES));
        check(TYPE, &format!("{endless}\r\n{model}--XX--"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(kind in ".*", body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = field(&kind, &body, "model");
            let _ = field(TYPE, &[b"--XX\r\n".as_slice(), &body].concat(), "model");
        }

        #[test]
        fn what_is_put_in_is_found(before in "[ -~]{0,40}", value in "[ -~]{0,40}") {
            let body = format!("{}{}--XX--", part("name=\"file\"; filename=\"f\"", &before), part("name=\"model\"", &value));
            prop_assert_eq!(field(TYPE, body.as_bytes(), "model"), Some(value.as_bytes()));
        }
    }
}
