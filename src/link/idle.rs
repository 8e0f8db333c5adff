//! The connections to one backend that wait for their next exchange.

use super::Link;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections kept per backend.
const IDLE_LINKS: usize = 256;
/// How long an idle connection is kept. Servers in front of Ollama commonly close theirs after five seconds.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// How old a connection may be that is used again. The backend's name may lead elsewhere by now, which those that are never
/// idle for long would not find out as long as somebody answers at the old address.
const USED_FOR: Duration = Duration::from_secs(10);

/// The idle connections to one backend, last used first.
#[derive(Debug, Default)]
pub struct Links(Mutex<Vec<Link>>);

impl Links {
    /// An idle connection that is still good, if there is one.
    pub fn take(&self, now: Instant) -> Option<Link> {
        loop {
            let link = self.lock().pop()?;
            if is_good(&link, now) {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose exchange is over, unless it cannot be used again or enough are kept.
    pub fn put(&self, mut link: Link, now: Instant) {
        if !link.is_reusable() {
            return;
        }
        link.0.idle_since = now;
        let mut idle = self.lock();
        if idle.len() < IDLE_LINKS {
            idle.push(link);
        }
    }

    /// Closes what is too old, has been idle too long or was closed by the backend.
    pub fn prune(&self, now: Instant) {
        self.lock().retain(|link| is_good(link, now));
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_good(link: &Link, now: Instant) -> bool {
    now.saturating_duration_since(link.0.idle_since) < IDLE_FOR
        && now.saturating_duration_since(link.0.made) < USED_FOR
        && link.is_quiet()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Outgoing, RequestBody, RequestHead};
    use crate::origin::Origin;
    use bytes::Bytes;
    use http::{HeaderValue, Method};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A link that has had an exchange, and the other end of it.
    async fn used() -> (Link, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let link = Link::connect(&origin, Duration::from_secs(5))
            .await
            .unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other.set_nodelay(true).unwrap();
        other
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        // Written before it is asked, so that one thread can do both.
        let head = RequestHead {
            method: &Method::GET,
            prefix: "",
            target: "/",
            host: &HeaderValue::from_static("a"),
            lines: b"",
        };
        let request = Outgoing::new(&head, RequestBody::Kept(Bytes::new()));
        let answer = link.send(request).await.expect("an answer");
        (answer.into_body(), other)
    }

    #[tokio::test]
    async fn a_link_on_which_something_came_this_moment_is_not_used_again() {
        for extra in [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), b""] {
            let links = Links::default();
            let (link, mut other) = used().await;
            links.put(link, Instant::now());
            let mut request = [0; 256];
            let _ = other.read(&mut request).unwrap();
            // The runtime has no chance to notice.
            if extra.is_empty() {
                drop(other);
            } else {
                other.write_all(extra).unwrap();
            }
            assert!(links.take(Instant::now()).is_none());
        }
    }

    #[tokio::test]
    async fn a_link_on_which_nothing_came_is_used_again() {
        let links = Links::default();
        let (link, mut other) = used().await;
        links.put(link, Instant::now());
        let mut request = [0; 256];
        let _ = other.read(&mut request).unwrap();
        assert!(links.take(Instant::now()).is_some());
    }

    #[tokio::test]
    async fn a_link_that_is_never_idle_for_long_is_not_used_for_ever() {
        let links = Links::default();
        let (mut link, _other) = used().await;
        let made = link.0.made;
        for seconds in [3, 6, 9] {
            let now = made + Duration::from_secs(seconds);
            links.put(link, now);
            link = links.take(now).unwrap();
        }
        let now = made + USED_FOR;
        links.put(link, now);
        assert!(links.take(now).is_none());
    }
}
