//! The vectors that a simulated embedding model makes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Numbers in a vector.
pub(super) const DIMENSIONS: usize = 16;

/// A vector of length 1 that depends on the model and the text alone, so that every node gives the same.
pub(super) fn vector(digest: &str, text: &str, dimensions: usize) -> Vec<f32> {
    let seed = xxh3_64_with_seed(text.as_bytes(), xxh3_64_with_seed(digest.as_bytes(), 0));
    let mut rng = fastrand::Rng::with_seed(seed);
    let raw: Vec<f32> = (0..dimensions.clamp(1, DIMENSIONS))
        .map(|_| rng.f32() - 0.5)
        .collect();
    let length = raw
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::EPSILON);
    raw.into_iter().map(|x| x / length).collect()
}
