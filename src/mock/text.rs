//! What a simulated model says.

use fastrand::Rng;

const WORDS: &[&str] = &[
    "la",
    "llama",
    "walks",
    "over",
    "the",
    "altiplano",
    "con",
    "calma",
    "and",
    "carries",
    "lana",
    "under",
    "un",
    "cielo",
    "muy",
    "azul",
    "while",
    "every",
    "pastor",
    "sings",
    "al",
    "viento",
    "with",
    "una",
    "manta",
    "roja",
    "slowly",
    "hacia",
    "mountain",
    "pueblo",
    "where",
    "salt",
    "brilla",
    "como",
    "snow",
    "y",
    "nadie",
    "hurries",
    "because",
    "the",
    "alpaca",
    "waits",
    "junto",
    "river",
    "de",
    "piedra",
    "humming",
    "softly",
    "para",
    "todos",
    "los",
    "amigos",
    "of",
    "quinoa",
];

/// An endless text of made-up sentences, one token at a time. Equal seeds give equal texts.
#[derive(Debug)]
pub(super) struct Words {
    rng: Rng,
    /// Words until the full stop; 0 before a sentence begins.
    left: usize,
    started: bool,
}

impl Words {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            left: 0,
            started: false,
        }
    }

    /// The next word, with the space in front of it and the full stop behind it.
    pub(super) fn word(&mut self) -> String {
        let word = self.rng.choice(WORDS).copied().unwrap_or("llama");
        let mut token = String::with_capacity(word.len() + 2);
        if self.started {
            token.push(' ');
        }
        self.started = true;
        if self.left == 0 {
            self.left = self.rng.usize(4..11);
            token.extend(word.chars().take(1).map(|c| c.to_ascii_uppercase()));
            token.extend(word.chars().skip(1));
        } else {
            token.push_str(word);
        }
        self.left -= 1;
        if self.left == 0 {
            token.push('.');
        }
        token
    }
}
