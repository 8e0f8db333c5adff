//! Zstandard request bodies, decoded only to be read; what is passed on stays encoded.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::Read as _;
use thiserror::Error;

/// The longest decoded body, in bytes: Ollama's own limit.
pub const DECODED_BYTES: usize = 20 << 20;
/// The largest window a frame may ask for, in bytes: Ollama's own limit.
const WINDOW_BYTES: u64 = 8 << 20;
/// Frames of one body. Clients send one; each costs more than its few bytes.
const FRAMES: usize = 64;

/// Why a body cannot be decoded.
#[derive(Debug, Error)]
pub enum ZstdError {
    /// It is no Zstandard, or asks for a larger window.
    #[error("invalid zstd body: {0}")]
    Invalid(String),
    /// It has too many frames.
    #[error("the zstd body has more than {FRAMES} frames")]
    Frames,
    /// It decodes to more than the limit.
    #[error("the zstd body decodes to more than {DECODED_BYTES} bytes")]
    TooLarge,
}

/// Decodes a body of one or several frames. May take a tenth of a second.
///
/// # Errors
/// When it is broken, or breaks a limit; no more than the limits allow is then set aside.
pub fn decode(body: &[u8]) -> Result<Vec<u8>, ZstdError> {
    let invalid = |error: &dyn std::error::Error| ZstdError::Invalid(error.to_string());
    let mut rest = body;
    let mut plain = Vec::new();
    let mut frames = FrameDecoder::new();
    frames.set_max_window_size(WINDOW_BYTES);
    for _ in 0..FRAMES {
        if rest.is_empty() {
            return Ok(plain);
        }
        let frame = match StreamingDecoder::new_with_decoder(&mut rest, &mut frames) {
            Ok(frame) => frame,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                rest = usize::try_from(length)
                    .ok()
                    .and_then(|length| rest.get(length..))
                    .ok_or_else(|| ZstdError::Invalid("a frame breaks off".to_owned()))?;
                continue;
            }
            Err(error) => return Err(invalid(&error)),
        };
        let room = (DECODED_BYTES + 1 - plain.len()) as u64;
        frame
            .take(room)
            .read_to_end(&mut plain)
            .map_err(|error| invalid(&error))?;
        if plain.len() > DECODED_BYTES {
            return Err(ZstdError::TooLarge);
        }
    }
    if rest.is_empty() {
        Ok(plain)
    } else {
        Err(ZstdError::Frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn encode(plain: &[u8]) -> Vec<u8> {
        compress_to_vec(plain, CompressionLevel::Fastest)
    }

    /// A frame with one block of a byte that is repeated, after a window descriptor.
    fn frame(window: u8, blocks: usize, block_bytes: u32) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
        for left in (0..blocks).rev() {
            let header = u32::from(left == 0) | 1 << 1 | block_bytes << 3;
            frame.extend_from_slice(header.to_le_bytes().get(..3).unwrap());
            frame.push(b'x');
        }
        frame
    }

    #[test]
    fn frames_are_joined_and_skippable_ones_skipped() {
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let body = [&skipped[..], &encode(b"one "), &skipped, &encode(b"two")].concat();
        assert_eq!(decode(&body).unwrap(), b"one two");
        assert!(matches!(decode(&skipped[..10]), Err(ZstdError::Invalid(_))));
        assert_eq!(decode(b"").unwrap(), b"");
        let many = encode(b"").repeat(FRAMES + 1);
        assert!(matches!(decode(&many), Err(ZstdError::Frames)));
    }

    #[test]
    fn bombs_are_stopped_at_the_limit() {
        const BLOCK: u32 = 128 << 10;
        let window = 7 << 3;
        let whole = decode(&frame(window, 160, BLOCK)).unwrap();
        assert_eq!(whole.len(), DECODED_BYTES);
        let bomb = frame(window, 160_000, BLOCK);
        assert!(matches!(decode(&bomb), Err(ZstdError::TooLarge)));
        let two = [frame(window, 100, BLOCK), frame(window, 100, BLOCK)].concat();
        assert!(matches!(decode(&two), Err(ZstdError::TooLarge)));
    }

    #[test]
    fn windows_over_the_limit_are_refused() {
        // 2^(10 + 13) bytes are the limit, an eighth more is too many.
        assert_eq!(decode(&frame(13 << 3, 1, 5)).unwrap(), b"xxxxx");
        for window in [13 << 3 | 1, 14 << 3, 0xff] {
            assert!(matches!(
                decode(&frame(window, 1, 5)),
                Err(ZstdError::Invalid(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_what_broke_off_is_not(
            plain in proptest::collection::vec(any::<u8>(), 1..3000),
            cut in 1_usize..20,
        ) {
            let encoded = encode(&plain);
            prop_assert_eq!(decode(&encoded).unwrap(), plain);
            // The four bytes of the checksum are not missed.
            let cut = encoded.len().saturating_sub(cut + 4).max(1);
            prop_assert!(decode(encoded.get(..cut).unwrap()).is_err());
        }

        #[test]
        fn no_bytes_are_too_much(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let _ = decode(&bytes);
            let _ = decode(&[&[0x28, 0xb5, 0x2f, 0xfd], bytes.as_slice()].concat());
            let mut encoded = encode(&bytes);
            let at = at.index(encoded.len());
            if let Some(slot) = encoded.get_mut(at) {
                *slot = byte;
            }
            let _ = decode(&encoded);
        }
    }
}
