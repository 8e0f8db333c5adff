//! Who is let in: places for connections, in all and for each address, and what happens when there are none.

use super::ACCEPT_REST;
use super::framing::Refusal;
use crate::descriptors;
use crate::overload::Overload;
use ipnet::{IpNet, Ipv6Net};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is opened to hold a descriptor; it costs nothing and is always there.
const HOLDER: &str = "/dev/null";
/// Of an address of version 6, who has one of them commonly has all that begin with as many bits.
const NETWORK_BITS: u8 = 64;

/// Room for connections at one time, which several listeners may share; further ones wait in the kernel's backlog.
#[derive(Debug, Clone)]
pub struct Door {
    free: Arc<Semaphore>,
    all: u32,
    crowd: Option<Arc<Crowd>>,
    /// How hard pressed the process is, as far as those who come in here are to feel it.
    pub overload: Arc<Overload>,
    /// What is done for whom no descriptor is left.
    exhausted: Exhausted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exhausted {
    Refuse,
    Serve,
}

/// Who has come.
#[derive(Debug)]
pub enum Guest {
    /// Somebody to be served.
    In(TcpStream, IpAddr, Place),
    /// Somebody who has to be told why not.
    Out(TcpStream, Refusal),
}

/// A place that is taken, given back when dropped.
#[derive(Debug)]
pub struct Place {
    _free: OwnedSemaphorePermit,
    _seat: Option<Seat>,
}

/// How many connections each address has.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    /// Proxies in front, each of which brings many clients.
    trusted: Vec<IpNet>,
    of: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
struct Seat {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

/// Descriptors that are kept for the time when there are no others.
#[derive(Debug)]
pub struct Reserve {
    held: Vec<File>,
    most: usize,
}

impl Door {
    /// Room for so many connections of so many listeners. Who finds no descriptor left is refused.
    pub fn for_clients(
        connections: usize,
        listeners: usize,
        crowd: Option<Crowd>,
        overload: Arc<Overload>,
    ) -> Self {
        Self {
            crowd: crowd.map(Arc::new),
            overload,
            ..Self::new(connections, listeners, Exhausted::Refuse)
        }
    }

    /// Room for so many connections of one listener, which overload changes nothing for. Who finds no descriptor left
    /// is given one that was kept.
    pub fn for_operators(connections: usize) -> Self {
        Self::new(connections, 1, Exhausted::Serve)
    }

    fn new(connections: usize, listeners: usize, exhausted: Exhausted) -> Self {
        // A listener has a place in hand before it accepts, and must not keep it from the others.
        let all = connections.saturating_add(listeners.saturating_sub(1));
        let all = all.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            free: Arc::new(Semaphore::new(all)),
            all: u32::try_from(all).unwrap_or(u32::MAX),
            crowd: None,
            overload: Arc::default(),
            exhausted,
        }
    }

    /// What is to be kept for this door.
    pub fn reserve(&self) -> Reserve {
        let most = match self.exhausted {
            Exhausted::Refuse => 1,
            Exhausted::Serve => 2,
        };
        Reserve {
            held: Vec::new(),
            most,
        }
    }

    /// Waits for the next connection that there is room for.
    ///
    /// # Errors
    /// When it cannot be accepted; then it stays in the backlog.
    pub async fn next(&self, listener: &TcpListener, reserve: &mut Reserve) -> io::Result<Guest> {
        let free = Arc::clone(&self.free);
        let free = free.acquire_owned().await.map_err(io::Error::other)?;
        let accepted = loop {
            self.overload.until_paused(false).await;
            reserve.fill();
            tokio::select! {
                biased;
                () = self.overload.until_paused(true) => {}
                accepted = listener.accept() => break accepted,
            }
        };
        let mut is_last = false;
        let (stream, peer) = match accepted {
            Err(error) if descriptors::is_exhausted(&error) && reserve.give() => {
                is_last = true;
                // What was given may be taken by somebody else, and then this fails as before.
                let again = tokio::time::timeout(ACCEPT_REST, listener.accept()).await;
                again.map_err(|_| error)??
            }
            accepted => accepted?,
        };
        if is_last && self.exhausted == Exhausted::Refuse {
            return Ok(Guest::Out(stream, Refusal::Overloaded));
        }
        let seat = match &self.crowd {
            None => None,
            Some(crowd) => match Crowd::sit(crowd, peer.ip()) {
                Ok(seat) => seat,
                Err(refusal) => return Ok(Guest::Out(stream, refusal)),
            },
        };
        let place = Place {
            _free: free,
            _seat: seat,
        };
        Ok(Guest::In(stream, peer.ip(), place))
    }

    /// Waits until everybody has left.
    pub async fn emptied(&self) {
        // The semaphore is never closed, so this waits for every connection to give its place back.
        let _ = self.free.acquire_many(self.all).await;
    }
}

impl Crowd {
    /// At most so many for each address that is not trusted.
    pub fn new(most: usize, trusted: Vec<IpNet>) -> Self {
        Self {
            most,
            trusted,
            of: Mutex::default(),
        }
    }

    fn sit(crowd: &Arc<Self>, address: IpAddr) -> Result<Option<Seat>, Refusal> {
        let address = address.to_canonical();
        if crowd.trusted.iter().any(|net| net.contains(&address)) {
            return Ok(None);
        }
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => {
                Ipv6Net::new(v6, NETWORK_BITS).map_or(address, |net| net.network().into())
            }
        };
        let mut of = crowd.of.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of.entry(address).or_default();
        if *count >= crowd.most {
            return Err(Refusal::Crowded);
        }
        *count += 1;
        Ok(Some(Seat {
            crowd: Arc::clone(crowd),
            address,
        }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut of = self.crowd.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = of.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Reserve {
    /// Takes what is missing, as far as it is to be had.
    pub fn fill(&mut self) {
        while self.held.len() < self.most {
            let Ok(file) = File::open(HOLDER) else {
                return;
            };
            self.held.push(file);
        }
    }

    /// Gives one back to the system. `false` if there is none.
    fn give(&mut self) -> bool {
        self.held.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_others_theirs() {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let crowd = Arc::new(Crowd::new(2, trusted));
        let sit = |address: &str| Crowd::sit(&crowd, address.parse().unwrap());
        let first = sit("192.0.2.1").unwrap();
        // The same address, as a listener for both versions sees it.
        let second = sit("::ffff:192.0.2.1").unwrap();
        assert!(first.is_some() && second.is_some());
        assert_eq!(sit("192.0.2.1").unwrap_err(), Refusal::Crowded);
        assert!(sit("192.0.2.2").is_ok());
        drop(second);
        let third = sit("192.0.2.1").unwrap();
        assert!(third.is_some() && sit("192.0.2.1").is_err());
        let network = [sit("2001:db8::1").unwrap(), sit("2001:db8::2").unwrap()];
        assert!(sit("2001:db8::3").is_err() && sit("2001:db8:0:1::1").is_ok());
        drop((first, third, network));
        assert!(crowd.of.lock().unwrap().is_empty());
        for _ in 0..3 {
            assert!(sit("10.1.2.3").unwrap().is_none());
        }
    }
}
