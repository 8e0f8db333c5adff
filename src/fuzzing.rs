//! What the fuzz targets need to reach besides the public modules. No part of the interface.

pub use crate::server::{Fault, Framing, Refusal};

use crate::link::{Malformed, framing, head};
use bytes::BytesMut;
use http::HeaderMap;

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status, once its head was whole.
    pub status: Option<u16>,
    /// As much of its body as came.
    pub body: Vec<u8>,
    /// Whether it is whole, or what is wrong.
    pub end: Result<bool, String>,
}

/// Reads an answer to GET as a backend's connection brings it, in these pieces.
pub fn answer<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Answer {
    let mut answer = Answer {
        status: None,
        body: Vec::new(),
        end: Ok(false),
    };
    let mut come = BytesMut::new();
    let mut left: Option<framing::Framing> = None;
    let mut take = |piece: &[u8]| -> Result<bool, Malformed> {
        come.extend_from_slice(piece);
        if left.is_none() {
            let Some(head) = head::take(&mut come, &mut HeaderMap::new(), false)? else {
                return Ok(false);
            };
            answer.status = Some(head.response.status().as_u16());
            left = Some(head.framing);
        }
        let Some(left) = &mut left else {
            return Ok(false);
        };
        let mut bytes = &come[..];
        while !left.is_over()
            && let Some(data) = left.decode(&mut bytes)?
        {
            answer.body.extend_from_slice(data);
        }
        come = bytes.into();
        Ok(left.is_over())
    };
    for piece in pieces {
        answer.end = take(piece).map_err(|malformed| malformed.to_string());
        if answer.end != Ok(false) {
            break;
        }
    }
    answer
}
