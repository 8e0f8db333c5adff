//! The address of a peer with its text, which is made once for all requests of a connection.

use http::HeaderValue;
use std::fmt;
use std::net::IpAddr;

/// An IP address in its [canonical](IpAddr::to_canonical) form. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    text: HeaderValue,
}

impl Address {
    /// The text as the value of a header.
    pub fn text(&self) -> &HeaderValue {
        &self.text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.text.to_str().unwrap_or_default()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        // An address is digits, letters, dots and colons, so it always is a value.
        let text = HeaderValue::try_from(ip.to_string());
        Self {
            ip,
            text: text.unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
