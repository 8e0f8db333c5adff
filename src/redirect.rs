//! Sends a client whose path has a slash too many to the path it meant, as Ollama's router does.

use crate::reply::Source;
use crate::route::Route;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use percent_encoding::{CONTROLS, utf8_percent_encode};

/// The answer to a target that is known but for a slash at the end of its path; `mount` is the path that it was below.
pub fn answer(method: &Method, uri: &Uri, mount: &str) -> Option<Response<Source>> {
    let path = Route::without_slash(method, uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{mount}{path}?{query}"),
        None => format!("{mount}{path}"),
    };
    // Beyond ASCII a header is no text.
    let target = utf8_percent_encode(&target, CONTROLS).to_string();
    // Old clients repeat with GET what a 301 answers.
    let status = if *method == Method::GET {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::TEMPORARY_REDIRECT
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let page = format!("<a href=\"{}\">{reason}</a>.\n\n", escape(&target));
    let mut response = Response::new(Source::Own(page.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(LOCATION, HeaderValue::try_from(target).ok()?);
    Some(response)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(method: &Method, target: &str, expected: Option<(u16, &str)>) {
        let found = answer(method, &target.parse().unwrap(), "/p");
        let found = found.map(|response| {
            let location = response.headers()[LOCATION].to_str().unwrap().to_owned();
            (response.status().as_u16(), location)
        });
        let found = found
            .as_ref()
            .map(|(status, location)| (*status, location.as_str()));
        assert_eq!(found, expected, "{method} {target}");
    }

    #[test]
    fn known_paths_with_a_slash_too_many() {
        check(&Method::GET, "/api/tags/", Some((301, "/p/api/tags")));
        check(&Method::HEAD, "/api/tags/", Some((307, "/p/api/tags")));
        check(
            &Method::POST,
            "/api/show/?a=1&b",
            Some((307, "/p/api/show?a=1&b")),
        );
        check(
            &Method::GET,
            "/v1/models/llama3.2:1b/",
            Some((301, "/p/v1/models/llama3.2:1b")),
        );
        check(&Method::GET, "/v1/models/", Some((301, "/p/v1/models")));
        check(&Method::GET, "/api/tags", None);
        check(&Method::GET, "/", None);
        check(&Method::GET, "/api/tags//", None);
        check(&Method::GET, "/v1/models/a%2Fb/", None);
        check(&Method::GET, "/api/blobs/", None);
        check(&Method::GET, "/unknown/", None);
        // No method of such a path: Ollama's router finds nothing.
        check(&Method::GET, "/api/show/", None);
        check(&Method::OPTIONS, "/api/tags/", None);
    }

    #[test]
    fn the_page_is_safe_to_show() {
        let uri = "/api/tags/?'&x".parse().unwrap();
        let response = answer(&Method::GET, &uri, "").unwrap();
        let Source::Own(body) = response.body() else {
            panic!("a body of its own");
        };
        assert_eq!(
            body,
            "<a href=\"/api/tags?&#39;&amp;x\">Moved Permanently</a>.\n\n"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_target_the_location_is_text_on_this_host(
            segment in "[^/]{0,12}", query in ".{0,12}", mount in "(/p)?",
        ) {
            let Ok(uri) = format!("/v1/models/{segment}/?{query}").parse::<Uri>() else {
                return Ok(());
            };
            if let Some(response) = answer(&Method::GET, &uri, &mount) {
                let location = response.headers()[LOCATION].to_str().unwrap();
                let start = format!("{mount}/v1/models");
                prop_assert!(location.starts_with(&start), "{}", location);
            }
        }
    }
}
