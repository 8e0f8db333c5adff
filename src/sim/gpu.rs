//! What a node computes on. Speeds are for a model of 8 billion parameters in four bits.

use std::time::Duration;

/// Gigabytes of the model that all speeds are given for.
pub const REFERENCE_GB: f64 = 4.9;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Short name, part of a node's name.
    pub name: &'static str,
    /// Prompt tokens per second.
    pub prefill: f64,
    /// Answer tokens per second, for one answer at a time.
    pub decode: f64,
    /// By how much of itself each further answer slows all that are written together.
    pub slope: f64,
    /// Memory for models, in gigabytes.
    pub memory_gb: f64,
    /// Gigabytes of a model that are loaded per second.
    pub load_gb: f64,
    /// How long it takes until the memory of an unloaded model is free.
    pub settle: Duration,
}

const fn gpu(name: &'static str, rates: [f64; 3], memory_gb: f64, load_gb: f64) -> Gpu {
    let [prefill, decode, slope] = rates;
    Gpu {
        name,
        prefill,
        decode,
        slope,
        memory_gb,
        load_gb,
        settle: Duration::from_secs(1),
    }
}

/// Measured with llama.cpp by many; slopes and loading speeds are estimates.
pub const H100: Gpu = gpu("h100", [7760.0, 144.0, 0.15], 80.0, 3.0);
/// A fast consumer card.
pub const RTX_4090: Gpu = gpu("4090", [6899.0, 128.0, 0.15], 24.0, 2.5);
/// Its predecessor.
pub const RTX_3090: Gpu = gpu("3090", [3865.0, 112.0, 0.16], 24.0, 2.0);
/// A workstation card with much memory.
pub const A6000: Gpu = gpu("a6000", [3622.0, 102.0, 0.16], 48.0, 2.0);
/// A desktop computer with much memory.
pub const M2_ULTRA: Gpu = gpu("m2ultra", [1024.0, 76.0, 0.15], 128.0, 3.0);
/// An old data centre card.
pub const P40: Gpu = gpu("p40", [890.0, 50.0, 0.45], 24.0, 1.0);
/// No card at all; its memory is free at once.
pub const CPU: Gpu = Gpu {
    settle: Duration::ZERO,
    ..gpu("cpu", [60.0, 8.5, 0.6], 64.0, 2.0)
};
