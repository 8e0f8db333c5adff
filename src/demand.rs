//! What one request asks for, as far as choosing a backend may depend on it.

use crate::wire::ModelKey;
use std::net::{IpAddr, Ipv6Addr};

/// The facts of a request that strategies may use. It holds no text that a user wrote.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The model asked for; `None` when the request names none, or none that can exist.
    pub model: Option<ModelKey>,
    /// Where the request came from, trusted proxies looked through.
    pub client: IpAddr,
}

impl Demand {
    /// The bytes that stand for the client where requests are kept together: an IPv4 address whole, of an IPv6 address
    /// the /64 that one household or host moves about in. A mapped IPv4 address counts as IPv4.
    pub fn client_key(&self) -> u64 {
        match self.client.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => network_half(v6),
        }
    }
}

fn network_half(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}
