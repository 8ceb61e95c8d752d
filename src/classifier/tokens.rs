//! From text to rows of the artefact: words, and the pieces of those that are not known whole.
//!
//! WordPiece's greedy longest match over our own vocabulary, which differs from the model's: it has whole words
//! that the model breaks, lacks punctuation and other scripts, and skips inflections. The `tokenizers` crate has no
//! room for the latter, and spends ten times the whole budget of this module on offsets that nobody reads here.

use rustc_hash::FxHashMap;
use unicode_normalization::char::{decompose_canonical, is_combining_mark};

/// Words looked up in one text. Some 3 KiB of prose settle what it is about; the longest text allowed has 64 KiB.
pub(super) const MAX_WORDS: usize = 512;

/// Longer runs of letters and digits are hashes and encodings, not words; matching them is quadratic in the length.
const MAX_WORD_BYTES: usize = 40;

/// The weight of a word known as a whole, and of each piece of one that is not: two fragments are not two words.
pub(super) const WHOLE: i32 = 2;
const PIECE: i32 = 1;

/// What stands at the start of words and what continues them. `None`: known, and says nothing (an ending).
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    starts: FxHashMap<Box<str>, Option<u32>>,
    continues: FxHashMap<Box<str>, Option<u32>>,
    longest: usize,
}

impl Vocabulary {
    /// False if the token was there already.
    pub(super) fn add(&mut self, token: &str, continues: bool, row: Option<u32>) -> bool {
        self.longest = self.longest.max(token.len());
        let map = if continues { &mut self.continues } else { &mut self.starts };
        map.insert(token.into(), row).is_none()
    }

    /// Visits the row and weight of each piece of the text; the answer is the number of words that had one.
    pub(super) fn walk(&self, text: &str, mut visit: impl FnMut(u32, i32)) -> usize {
        let mut known = 0;
        let mut rows = Vec::with_capacity(8);
        for_each_word(text, |word| {
            rows.clear();
            self.pieces(word, &mut rows);
            let weight = if rows.len() > 1 { PIECE } else { WHOLE };
            for row in &rows {
                visit(*row, weight);
            }
            known += usize::from(!rows.is_empty());
        });
        known
    }

    /// The longest known beginning, then the longest known continuation, and so on; nothing if the word gets stuck.
    fn pieces(&self, word: &str, rows: &mut Vec<u32>) {
        let mut map = &self.starts;
        let mut rest = word;
        while !rest.is_empty() {
            let longest = rest.len().min(self.longest);
            // Words are ASCII, so every index is a boundary.
            let found = (1..=longest).rev().find_map(|end| Some((end, *map.get(&rest[..end])?)));
            let Some((end, row)) = found else {
                rows.clear();
                return;
            };
            rows.extend(row);
            rest = &rest[end..];
            map = &self.continues;
        }
    }
}

/// Calls back with each run of ASCII letters and digits, in lower case, accents taken off ("Gödel" is "godel").
/// Other scripts separate words: nothing about them is known.
fn for_each_word(text: &str, mut visit: impl FnMut(&str)) {
    let mut word = String::with_capacity(MAX_WORD_BYTES);
    let mut words = 0;
    let mut finish = |word: &mut String| {
        if !word.is_empty() {
            if word.len() <= MAX_WORD_BYTES {
                visit(word);
            }
            word.clear();
            words += 1;
        }
        words < MAX_WORDS
    };
    for character in text.chars() {
        let mut separates = false;
        let mut keep = |part: char| {
            if part.is_ascii_alphanumeric() {
                // One past the limit marks the word as too long; more would only take memory.
                if word.len() <= MAX_WORD_BYTES {
                    word.push(part.to_ascii_lowercase());
                }
            } else {
                separates |= !is_combining_mark(part);
            }
        };
        if character.is_ascii() {
            keep(character);
        } else {
            decompose_canonical(character, keep);
        }
        if separates && !finish(&mut word) {
            return;
        }
    }
    finish(&mut word);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn words_are_lower_case_ascii_without_accents() {
        assert_eq!(words("Gödel's PROOF, 1931."), ["godel", "s", "proof", "1931"]);
        // The same accent as a character of its own.
        assert_eq!(words("Go\u{308}del"), ["godel"]);
        assert_eq!(words("naïve\0café–bar"), ["naive", "cafe", "bar"]);
        assert_eq!(words("光合作用 photosynthesis 🌱"), ["photosynthesis"]);
        assert!(words(" \0\t🌱 光").is_empty());
    }

    #[test]
    fn work_is_bounded() {
        assert_eq!(words(&"a ".repeat(32_768)).len(), MAX_WORDS);
        assert_eq!(words(&format!("{} b", "a".repeat(65_536))), ["b"]);
        assert_eq!(words(&"a".repeat(MAX_WORD_BYTES)).len(), 1);
        assert!(words(&"a".repeat(MAX_WORD_BYTES + 1)).is_empty());
    }

    #[test]
    fn the_longest_match_wins_and_endings_are_silent() {
        let mut vocabulary = Vocabulary::default();
        for (row, token) in (0..).zip(["pro", "proton", "ton"]) {
            assert!(vocabulary.add(token, false, Some(row)));
        }
        assert!(vocabulary.add("ton", true, Some(3)) && vocabulary.add("s", true, None));
        assert!(!vocabulary.add("ton", true, Some(3)));
        let rows = |text| {
            let mut rows = Vec::new();
            let known = vocabulary.walk(text, |row, weight| rows.push((row, weight)));
            (known, rows)
        };
        assert_eq!(rows("Protons"), (1, vec![(1, WHOLE)]));
        assert_eq!(rows("protonton"), (1, vec![(1, PIECE), (3, PIECE)]));
        assert_eq!(rows("ton proxy"), (1, vec![(2, WHOLE)]));
    }
}
