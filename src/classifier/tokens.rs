//! Splits a text into words and pieces, and maps them to rows of the artefact.
//!
//! It is WordPiece's greedy longest match with a vocabulary of its own, which has more whole words than the model's,
//! has no punctuation and no other scripts, and skips inflections. The `tokenizers` crate cannot skip inflections, and
//! computing offsets, which are not needed here, takes it ten times as long as this whole module.

use rustc_hash::FxHashMap;
use unicode_normalization::char::{decompose_canonical, is_combining_mark};

/// The most words used of one text: about 3 KiB of prose, which determine its subject. Texts have up to 64 KiB.
pub(super) const MAX_WORDS: usize = 512;

/// Longer runs of letters and digits are hashes or encoded data and are ignored; matching is quadratic in the length.
const MAX_WORD_BYTES: usize = 40;

/// The weight of a word that is known as a whole; a piece of another word has half of it.
pub(super) const WHOLE: i32 = 2;
const PIECE: i32 = 1;

/// The tokens that start words and those that continue them, with their rows; `None` for inflections without votes.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    starts: FxHashMap<Box<str>, Option<u32>>,
    continues: FxHashMap<Box<str>, Option<u32>>,
    longest: usize,
}

/// How many of the words of a text there are in the table.
#[derive(Debug, Default)]
pub(super) struct WordCounts {
    /// Words with a row, or pieces with one.
    pub(super) known: usize,
    /// Words that are no numbers.
    pub(super) words: usize,
    /// Of those, the ones that are in the table as a whole.
    pub(super) whole: usize,
}

impl Vocabulary {
    /// Adds a token; false if it exists already.
    pub(super) fn add(&mut self, token: &str, continues: bool, row: Option<u32>) -> bool {
        self.longest = self.longest.max(token.len());
        let map = if continues { &mut self.continues } else { &mut self.starts };
        map.insert(token.into(), row).is_none()
    }

    /// Calls `see` with each word of the text, and `visit` with row and weight of each piece.
    pub(super) fn walk(
        &self,
        text: &str,
        mut see: impl FnMut(&str),
        mut visit: impl FnMut(u32, i32),
    ) -> WordCounts {
        let mut counts = WordCounts::default();
        let mut rows = Vec::with_capacity(8);
        for_each_word(text, |word| {
            see(word);
            rows.clear();
            let is_whole = self.pieces(word, &mut rows);
            let weight = if rows.len() > 1 { PIECE } else { WHOLE };
            for row in &rows {
                visit(*row, weight);
            }
            counts.known += usize::from(!rows.is_empty());
            if !word.bytes().all(|byte| byte.is_ascii_digit()) {
                counts.words += 1;
                counts.whole += usize::from(is_whole);
            }
        });
        counts
    }

    /// Greedy longest match: the longest known start, then the longest known continuations; no rows if a part is
    /// unknown. Whether the word is one of the starts.
    fn pieces(&self, word: &str, rows: &mut Vec<u32>) -> bool {
        if let Some(row) = self.starts.get(word) {
            rows.extend(row);
            return true;
        }
        let mut map = &self.starts;
        let mut rest = word;
        while !rest.is_empty() {
            let longest = rest.len().min(self.longest);
            // Words are ASCII, so every index is a character boundary.
            let found = (1..=longest).rev().find_map(|end| Some((end, *map.get(&rest[..end])?)));
            let Some((end, row)) = found else {
                rows.clear();
                return false;
            };
            rows.extend(row);
            rest = &rest[end..];
            map = &self.continues;
        }
        false
    }
}

/// Calls `visit` with each run of ASCII letters and digits, in lower case and without accents ("Gödel" is "godel").
/// Other scripts are not known and separate words. Addresses of web pages and mail are left out.
pub(super) fn for_each_word(text: &str, mut visit: impl FnMut(&str)) {
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
    for token in text.split_whitespace().filter(|token| !is_address(token)) {
        for character in token.chars() {
            if character.is_ascii() {
                if character.is_ascii_alphanumeric() {
                    if word.len() <= MAX_WORD_BYTES {
                        word.push(character.to_ascii_lowercase());
                    }
                } else if !finish(&mut word) {
                    return;
                }
                continue;
            }
            let mut separates = false;
            fold(character, |part| {
                if part.is_ascii_alphanumeric() {
                    // One byte beyond the limit marks the word as too long; more would only use memory.
                    if word.len() <= MAX_WORD_BYTES {
                        word.push(part);
                    }
                } else {
                    separates |= !is_combining_mark(part);
                }
            });
            if separates && !finish(&mut word) {
                return;
            }
        }
        if !finish(&mut word) {
            return;
        }
    }
}

/// Whether it is the address of a web page or of mail.
fn is_address(token: &str) -> bool {
    let bytes = token.as_bytes();
    bytes.len() > 4
        && (memchr::memchr(b'@', bytes).is_some_and(|at| at > 0 && token[at..].contains('.'))
            || token.trim_start_matches(['(', '<', '[']).starts_with("www.")
            || token.contains("://"))
}

/// Calls `keep` with the parts of a character: the letter in lower case, then its accents.
fn fold(character: char, mut keep: impl FnMut(char)) {
    match character {
        'ß' | 'ẞ' => ['s', 's'].into_iter().for_each(keep),
        'æ' | 'Æ' => ['a', 'e'].into_iter().for_each(keep),
        'œ' | 'Œ' => ['o', 'e'].into_iter().for_each(keep),
        'ø' | 'Ø' => keep('o'),
        'ł' | 'Ł' => keep('l'),
        'ı' => keep('i'),
        _ if character.is_ascii() => keep(character.to_ascii_lowercase()),
        _ => decompose_canonical(character, |part| keep(part.to_ascii_lowercase())),
    }
}

/// The text in lower case, without accents.
pub(super) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        fold(character, |part| {
            if !is_combining_mark(part) {
                folded.push(part);
            }
        });
    }
    folded
}

/// Whether less than two thirds of the letters are Latin.
pub(super) fn is_foreign_script(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let (mut latin, mut letters) = (0_usize, 0_usize);
    for character in text.chars().filter(|character| character.is_alphabetic()) {
        letters += 1;
        let mut is_latin = false;
        fold(character, |part| is_latin |= part.is_ascii_alphabetic());
        latin += usize::from(is_latin);
    }
    latin * 3 < letters * 2
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
        // The same accent as a combining character.
        assert_eq!(words("Go\u{308}del"), ["godel"]);
        assert_eq!(words("naïve\0café–bar"), ["naive", "cafe", "bar"]);
        assert_eq!(words("光合作用 photosynthesis 🌱"), ["photosynthesis"]);
        assert!(words(" \0\t🌱 光").is_empty());
        assert_eq!(words("Straße, œuvre, Øre"), ["strasse", "oeuvre", "ore"]);
    }

    #[test]
    fn addresses_are_left_out() {
        let text =
            "Ask ann.b@mail.example or <www.bank.example>, see https://law.example/court?x=1 @home a@b";
        assert_eq!(words(text), ["ask", "or", "see", "home", "a", "b"]);
    }

    #[test]
    fn other_scripts_are_told_by_their_letters() {
        for text in ["光合作用", "Фотосинтез in Russia", "photo 光合作用光合作用"] {
            assert!(is_foreign_script(text), "{text}");
        }
        for text in ["", "🌱 1 2", "Größe", "The word 光 means light."] {
            assert!(!is_foreign_script(text), "{text}");
        }
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
            let counts = vocabulary.walk(text, |_| {}, |row, weight| rows.push((row, weight)));
            (counts.known, rows)
        };
        assert_eq!(rows("Protons"), (1, vec![(1, WHOLE)]));
        assert_eq!(rows("protonton"), (1, vec![(1, PIECE), (3, PIECE)]));
        assert_eq!(rows("ton proxy"), (1, vec![(2, WHOLE)]));
    }
}
