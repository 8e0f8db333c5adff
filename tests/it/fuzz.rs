//! The properties that libFuzzer looks for exceptions to, on its seeds and on some thousand texts made of them.

#[path = "../fuzz/properties.rs"]
#[expect(clippy::cast_possible_truncation, reason = "as in the reader")]
mod properties;

use std::path::Path;

/// Texts that are made of each seed.
const TEXTS: usize = 1000;
/// The most changes to a seed.
const CHANGES: usize = 6;
/// What is put in, since chance alone would hardly find it.
const WORDS: [&[u8]; 14] = [
    b"\r\n",
    b"\n\n",
    b"\"",
    b"{",
    b"}",
    b"null",
    b"\\ud800",
    b"\xff",
    b"1e999",
    b"data: [DONE]",
    b"\"done\":true",
    b"content-length: 3\r\n",
    b"\"model\":",
    b"= ",
];

#[track_caller]
fn check(target: &str, seed: u64, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<_> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    assert!(!seeds.is_empty());
    let mut chance = fastrand::Rng::with_seed(seed);
    for text in &seeds {
        property(text);
        for _ in 0..TEXTS {
            let mut text = text.clone();
            for _ in 0..chance.usize(1..=CHANGES) {
                change(&mut text, &seeds, &mut chance);
            }
            property(&text);
        }
    }
}

fn change(text: &mut Vec<u8>, seeds: &[Vec<u8>], chance: &mut fastrand::Rng) {
    let from = chance.usize(..=text.len());
    let to = (from + chance.usize(..=8)).min(text.len());
    match chance.u8(..5) {
        0 => text.truncate(from),
        1 => drop(text.splice(from..to, [chance.u8(..)])),
        2 => drop(text.splice(from..to, [])),
        3 => drop(text.splice(from..to, WORDS[chance.usize(..WORDS.len())].iter().copied())),
        _ => {
            let other = &seeds[chance.usize(..seeds.len())];
            let start = chance.usize(..=other.len());
            let end = (start + chance.usize(..=64)).min(other.len());
            text.splice(from..from, other[start..end].iter().copied());
        }
    }
}

#[test]
fn an_answer_is_read_the_same_however_it_comes() {
    check("answer", 9, properties::answer);
}

#[test]
fn no_text_is_too_much_for_the_configuration() {
    check("configuration", 1, properties::configuration);
}

#[test]
fn what_is_found_in_a_body_is_what_is_in_it() {
    check("classification", 2, properties::classification);
}

#[test]
fn an_answer_is_the_same_however_it_is_cut() {
    check("meter", 3, properties::meter);
}

#[test]
fn messages_end_at_the_same_places_however_they_are_cut() {
    check("framing", 4, properties::framing);
}
