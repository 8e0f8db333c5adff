//! Where requests come in and answers go out: the path that the proxy is found under, the pages that may call it, and
//! what is answered before anything is routed.

use crate::config::Settings;
use crate::cors::Cors;
use crate::error::Error;
use crate::header;
use crate::mount::Mount;
use crate::redirect;
use crate::reply::Source;
use http::{HeaderMap, Request, Response};

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
