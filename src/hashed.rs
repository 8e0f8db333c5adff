//! Maps of keys that are hashes themselves.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys hash to one number, which needs no hashing. Only where few keys are held, or none are a client's to make
/// up: keys that fall together can be chosen.
pub type Hashed<K, V> = HashMap<K, V, BuildHasherDefault<AsItIs>>;

/// Takes the last number for the hash.
#[derive(Debug, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
