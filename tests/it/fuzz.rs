//! A short run of what the fuzz targets assert (`fuzz/src/lib.rs`), always the same: the seeds, and mutations of them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::panic::catch_unwind;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Pieces that a blind change would hardly ever find.
const WORDS: [&[u8]; 20] = [
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\xff",
    b"\0",
    b"1e999",
    b"\"text\":",
    b"18446744073709551616",
    b"{\"a\":",
    b"[[[[[[[[",
    b"]]]]]]]]",
    b"null",
    b"\"metadata\":{",
    b"\"chunks\":[",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
];

/// Runs a target over its seeds, and `times` over a seed that was changed a few times.
fn over_seeds_and_mutations(name: &str, times: usize, target: fn(&[u8])) {
    let folder = crate::root().join("fuzz/seeds").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(seeds.len() > 4);
    let mut dice = StdRng::seed_from_u64(4);
    for round in 0..seeds.len() + times {
        let input = match seeds.get(round) {
            Some(seed) => seed.clone(),
            None => mutated(&seeds, &mut dice),
        };
        if catch_unwind(|| target(&input)).is_err() {
            panic!("{name} fails in round {round} with \"{}\"", input.escape_ascii());
        }
    }
}

fn mutated(seeds: &[Vec<u8>], dice: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[dice.random_range(0..seeds.len())].clone();
    for _ in 0..dice.random_range(1..6) {
        let at = dice.random_range(0..=input.len());
        match dice.random_range(0..7) {
            0 => input.truncate(at),
            1 => input.insert(at, dice.random()),
            2 => drop(input.splice(at..at, WORDS[dice.random_range(0..WORDS.len())].iter().copied())),
            3 if at < input.len() => input[at] ^= 1 << dice.random_range(0..8),
            4 if at < input.len() => drop(input.remove(at)),
            5 => {
                let end = dice.random_range(at..=input.len());
                let copy = input[at..end].to_vec();
                drop(input.splice(at..at, copy));
            }
            6 => {
                let other = &seeds[dice.random_range(0..seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[dice.random_range(0..other.len())..]);
            }
            _ => {}
        }
    }
    input
}

#[test]
fn lines_hold_their_promises() {
    over_seeds_and_mutations("lines", 20_000, targets::lines);
}

#[test]
fn requests_hold_their_promises() {
    over_seeds_and_mutations("request", 20_000, targets::request);
}

#[test]
fn answers_of_a_language_model_hold_their_promises() {
    over_seeds_and_mutations("answer", 20_000, targets::answer);
}

#[test]
fn tokenizers_hold_their_promises() {
    over_seeds_and_mutations("tokenizer", 3_000, targets::tokenizer);
}

#[test]
fn configurations_of_models_hold_their_promises() {
    over_seeds_and_mutations("model_config", 5_000, targets::model_config);
}

#[test]
fn inflated_bodies_hold_their_promises() {
    over_seeds_and_mutations("inflate", 5_000, targets::inflate);
}
