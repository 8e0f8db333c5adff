//! How long prompts and answers are, and how requests follow each other, in traces that others have published.
//!
//! Quantiles of the Azure LLM inference traces of 2023 (CC-BY 4.0; Patel et al., Splitwise, ISCA 2024) and of the Mooncake
//! conversation trace (Apache-2.0; Qin et al., FAST 2025).

use super::chance::Quantiles;

/// Tokens of prompts, tokens of answers and times between requests, these in units of their mean or nearly so.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Tokens.
    pub prompt: &'static Quantiles,
    /// Tokens.
    pub output: &'static Quantiles,
    /// Only their shape counts.
    pub gaps: &'static Quantiles,
}

/// People who talk.
pub const CONVERSATION: Lengths = Lengths {
    prompt: &[
        (0.0, 2.0),
        (0.05, 181.0),
        (0.1, 207.0),
        (0.25, 396.0),
        (0.4, 703.0),
        (0.5, 1020.0),
        (0.6, 1071.0),
        (0.75, 1189.0),
        (0.9, 2735.0),
        (0.95, 4083.0),
        (0.99, 4142.0),
        (0.999, 6212.0),
        (1.0, 14050.0),
    ],
    output: &[
        (0.0, 7.0),
        (0.05, 41.0),
        (0.25, 85.0),
        (0.5, 129.0),
        (0.6, 177.0),
        (0.75, 395.0),
        (0.9, 424.0),
        (0.99, 601.0),
        (0.999, 954.0),
        (1.0, 1000.0),
    ],
    gaps: &[
        (0.0, 0.0),
        (0.05, 0.035),
        (0.1, 0.089),
        (0.25, 0.267),
        (0.5, 0.655),
        (0.75, 1.364),
        (0.9, 2.327),
        (0.95, 3.126),
        (0.99, 4.927),
        (0.999, 7.914),
        (1.0, 23.86),
    ],
};

/// Editors that complete code: long prompts, short answers, and most of them at once.
pub const CODE: Lengths = Lengths {
    prompt: &[
        (0.0, 3.0),
        (0.05, 75.0),
        (0.1, 147.0),
        (0.25, 578.0),
        (0.5, 1469.0),
        (0.75, 2745.0),
        (0.9, 5194.0),
        (0.95, 7315.0),
        (1.0, 7437.0),
    ],
    output: &[
        (0.0, 6.0),
        (0.25, 9.0),
        (0.5, 13.0),
        (0.75, 24.0),
        (0.9, 55.0),
        (0.95, 90.0),
        (0.99, 252.0),
        (0.999, 831.0),
        (1.0, 1899.0),
    ],
    gaps: &[
        (0.0, 0.0),
        (0.1, 0.0005),
        (0.25, 0.0053),
        (0.4, 0.0388),
        (0.5, 0.1638),
        (0.75, 0.2669),
        (0.9, 0.7007),
        (0.95, 1.0287),
        (0.99, 5.6593),
        (0.998, 6.0),
        (0.999, 212.4),
        (1.0, 557.3),
    ],
};

/// Tokens that begin a conversation of the Mooncake trace.
pub const DOCUMENT: &Quantiles = &[
    (0.0, 379.0),
    (0.1, 393.0),
    (0.25, 824.0),
    (0.4, 3402.0),
    (0.5, 4752.0),
    (0.75, 12544.0),
    (0.9, 25049.0),
    (0.95, 38026.0),
    (0.99, 89357.0),
    (1.0, 125_683.0),
];

/// Tokens that each later request of it adds.
pub const FOLLOW_UP: &Quantiles = &[
    (0.0, 16.0),
    (0.05, 163.0),
    (0.25, 534.0),
    (0.5, 829.0),
    (0.6, 992.0),
    (0.75, 3503.0),
    (0.9, 9741.0),
    (0.99, 26773.0),
    (1.0, 94968.0),
];

/// Tokens of the answers there.
pub const MOONCAKE_OUTPUT: &Quantiles = &[
    (0.0, 1.0),
    (0.05, 10.0),
    (0.1, 24.0),
    (0.25, 156.0),
    (0.5, 350.0),
    (0.75, 472.0),
    (0.9, 597.0),
    (0.99, 1120.0),
    (0.999, 2000.0),
    (1.0, 2000.0),
];
