//! What an answer says of itself at its end.

use std::time::Duration;

/// The counters of one answer, as Ollama gives them; `None` where it gave none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tokens of the prompt, those that had been computed before included.
    pub prompt_tokens: Option<u32>,
    /// Time for those that had not.
    pub prompt_time: Option<Duration>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Time for them.
    pub output_time: Option<Duration>,
    /// Time until the model was in memory, waiting for other loads included.
    pub load_time: Option<Duration>,
    /// Time for everything, waiting for a slot included.
    pub total_time: Option<Duration>,
}

impl Counters {
    /// Reads the end of an answer, of any API family; what is said last counts. In JSON the quotes inside a text are
    /// escaped, so no text of a user or a model can look like one of these keys.
    pub fn read(tail: &[u8]) -> Self {
        let mut read = Self::default();
        let (mut openai, mut others) = ((None, None), (None, None));
        for colon in memchr::memchr_iter(b':', tail) {
            let (before, after) = tail.split_at(colon);
            let Some(key) = key_at_end(before) else {
                continue;
            };
            let number = || number_at_start(after.get(1..)?);
            let count = || u32::try_from(number()?).ok();
            let time = || number().map(Duration::from_nanos);
            match key {
                b"prompt_eval_count" => read.prompt_tokens = count(),
                b"eval_count" => read.output_tokens = count(),
                b"prompt_tokens" => openai.0 = count(),
                b"completion_tokens" => openai.1 = count(),
                b"input_tokens" => others.0 = count(),
                b"output_tokens" => others.1 = count(),
                b"prompt_eval_duration" => read.prompt_time = time(),
                b"eval_duration" => read.output_time = time(),
                b"load_duration" => read.load_time = time(),
                b"total_duration" => read.total_time = time(),
                _ => {}
            }
        }
        read.prompt_tokens = read.prompt_tokens.or(openai.0).or(others.0);
        read.output_tokens = read.output_tokens.or(openai.1).or(others.1);
        read
    }
}

/// The key that ends a text, without its quotes, if it may be one of those that are looked for: they name a count, a
/// duration or tokens.
fn key_at_end(text: &[u8]) -> Option<&[u8]> {
    let key = text.strip_suffix(b"\"")?;
    if !matches!(key.last(), Some(b't' | b'n' | b's')) {
        return None;
    }
    key.get(memchr::memrchr(b'"', key)? + 1..)
}

/// The number that a text begins with, blanks aside.
fn number_at_start(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let mut digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let first = u64::from(digits.next()? - b'0');
    digits.try_fold(first, |number, digit| {
        let digit = u64::from(digit - b'0');
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_each_family_says() {
        let native = br#"[1,2],"total_duration":5000000000,"load_duration":1000000,"prompt_eval_count":26,"prompt_eval_duration":130000000,"eval_count":298,"eval_duration":4709213000}"#;
        let read = Counters::read(native);
        assert_eq!(
            (read.prompt_tokens, read.output_tokens),
            (Some(26), Some(298))
        );
        assert_eq!(read.load_time, Some(Duration::from_millis(1)));
        assert_eq!(read.prompt_time, Some(Duration::from_millis(130)));
        assert_eq!(read.total_time, Some(Duration::from_secs(5)));
        let openai = br#""usage":{"prompt_tokens": 11,"completion_tokens":18,"total_tokens":29}}"#;
        let read = Counters::read(openai);
        assert_eq!(
            (read.prompt_tokens, read.output_tokens),
            (Some(11), Some(18))
        );
        let anthropic = br#""usage":{"input_tokens":7,"output_tokens":9}}"#;
        let read = Counters::read(anthropic);
        assert_eq!((read.prompt_tokens, read.output_tokens), (Some(7), Some(9)));
        assert_eq!(
            Counters::read(br#"{"content":"\"eval_count\":5"}"#),
            Counters::default()
        );
        assert_eq!(Counters::read(b""), Counters::default());
        assert_eq!(
            Counters::read(br#""eval_count":99999999999999999999"#),
            Counters::default()
        );
    }
}
