//! Where requests come in and answers go out: the path that the proxy is found under, the pages that may call it, and
//! what is answered before anything is routed.

use crate::config::Settings;
use crate::cors::Cors;
use crate::error::Error;
use crate::header;
use crate::mount::Mount;
use crate::redirect;
use crate::reply::Source;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

/// How one request came in, which decides how its answer goes out.
#[derive(Debug)]
pub struct Edge<'s> {
    cors: Cors,
    /// The path that it was sent below, if it was.
    mount: Option<&'s Mount>,
}

impl<'s> Edge<'s> {
    /// Takes a request in; from here on its path is one of Ollama's.
    pub fn enter<B>(request: &mut Request<B>, settings: &'s Settings) -> Self {
        let mounted = settings.path_prefix.strip(request.uri_mut());
        Self {
            cors: Cors::of(request.method(), request.headers(), &settings.origins),
            mount: mounted.then_some(&settings.path_prefix),
        }
    }

    /// The answer to a request that needs no route.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Result<Response<Source>, Error>> {
        let uri = request.uri();
        if uri.path() == "*" {
            // A question about the server as a whole.
            let mut response = Response::new(Source::Own(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Some(Ok(response));
        }
        self.cors
            .answer(uri.path())
            .or_else(|| redirect::answer(request.method(), uri, self.mount_path()).map(Ok))
    }

    /// Lets an answer out.
    pub fn leave(&self, headers: &mut HeaderMap) {
        self.cors.grant(headers);
        header::unbuffer(headers);
        if let Some(mount) = self.mount {
            mount.lead(headers);
        }
    }

    fn mount_path(&self) -> &str {
        self.mount.map_or("", Mount::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HOST, LOCATION, ORIGIN};
    use http::{HeaderValue, Method};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_comes_in_what_goes_out_is_text(
            origin in proptest::collection::vec(any::<u8>(), 0..20),
            scheme in "(http://localhost|app://|)",
            host in "[!-~]{0,12}",
            path in "(/p)?(/api/tags|/v1/models|)(/|//|/\\.\\.|[^ ]){0,6}",
            method in prop::sample::select(vec![Method::GET, Method::POST, Method::OPTIONS]),
        ) {
            let origin = [scheme.as_bytes(), &origin].concat();
            let (Ok(origin), Ok(host)) = (HeaderValue::from_bytes(&origin), HeaderValue::try_from(host)) else {
                return Ok(());
            };
            let request = Request::builder().method(method).uri(&path);
            let Ok(mut request) = request.header(ORIGIN, origin).header(HOST, host).body(()) else {
                return Ok(());
            };
            let text = "path_prefix = '/p'\norigins = 'https://*.x'\n[[backend]]\nurl = 'a'";
            let settings = Settings::parse(text, "f").unwrap();
            let before = request.uri().path().to_owned();
            let edge = Edge::enter(&mut request, &settings);
            let after = request.uri().path();
            let below = before.strip_prefix("/p").filter(|rest| rest.is_empty() || rest.starts_with('/'));
            prop_assert_eq!(after, below.map_or(&*before, |rest| if rest.is_empty() { "/" } else { rest }));
            let Some(Ok(mut answer)) = edge.answer(&request) else {
                return Ok(());
            };
            edge.leave(answer.headers_mut());
            for (name, value) in answer.headers() {
                prop_assert!(value.to_str().is_ok(), "{name}: {value:?}");
            }
            if let Some(location) = answer.headers().get(LOCATION) {
                let start: &[u8] = if below.is_some() { b"/p/" } else { b"/" };
                prop_assert!(location.as_bytes().starts_with(start) && !location.as_bytes().starts_with(b"//"));
            }
        }
    }
}
