//! A fleet to try llamero with.

use super::profile::{Model, Profile};

/// Three nodes of different speed with different models. Any load takes three seconds at most.
pub fn demo_fleet() -> Vec<(String, Profile)> {
    let node = |name: &str, models: &[&str], prefill, decode, slots, load, seed| {
        let profile = Profile {
            models: models.iter().map(|model| Model::named(model)).collect(),
            prefill_tokens_per_second: prefill,
            decode_tokens_per_second: decode,
            slots,
            load_bytes_per_second: load,
            loaded_limit: 2,
            seed,
            ..Profile::default()
        };
        (name.to_owned(), profile)
    };
    vec![
        node(
            "rtx4090",
            &["llama3.2", "qwen3:8b", "nomic-embed-text"],
            6900.0,
            128.0,
            4,
            4e9,
            1,
        ),
        node(
            "rtx3060",
            &["llama3.2", "nomic-embed-text"],
            2200.0,
            62.0,
            2,
            2e9,
            2,
        ),
        node(
            "old-p40",
            &["llama3.2", "gemma2:27b"],
            900.0,
            30.0,
            1,
            6e9,
            3,
        ),
    ]
}
