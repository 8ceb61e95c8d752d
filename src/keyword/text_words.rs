//! The words of a text as an index keeps them.

use super::analyzer::for_each_word;
use rustc_hash::FxHashSet;
use std::sync::Arc;
use twox_hash::XxHash3_64;

/// A word, and how often it stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WordCount {
    /// The lower half of its XXH3. Among a million different words a given one shares its hash with another with a
    /// chance of one in 4,000.
    pub hash: u32,
    /// At most 255: more say nothing more.
    pub count: u8,
}

/// The words of a text, each once, in the order of their hashes. The default is a text without words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextWords {
    words: Arc<[WordCount]>,
    length: u32,
}

/// The bytes of a stored word.
const STORED: usize = 5;
/// The different words of a text that count, the first ones. A text of 64 KiB in a natural language has some 3,000;
/// without a bound, one of nothing but different words would take more memory than it has bytes.
const MOST_WORDS: usize = 4_096;

impl TextWords {
    /// Counts the words of a text. Takes about ten microseconds for a hundred words.
    pub fn of(text: &str) -> TextWords {
        let mut hashes = Vec::with_capacity(text.len() / 5);
        for_each_word(text, |word| hashes.push(XxHash3_64::oneshot(word.as_bytes()) as u32));
        let length = u32::try_from(hashes.len()).unwrap_or(u32::MAX);
        if hashes.len() > MOST_WORDS {
            let mut known = FxHashSet::default();
            hashes.retain(|hash| known.contains(hash) || (known.len() < MOST_WORDS && known.insert(*hash)));
        }
        hashes.sort_unstable();
        let equal = hashes.chunk_by(|a, b| a == b).filter_map(|equal| Some((equal.first()?, equal.len())));
        let word = |(hash, count): (&u32, usize)| WordCount {
            hash: *hash,
            count: u8::try_from(count).unwrap_or(u8::MAX),
        };
        TextWords { words: equal.map(word).collect(), length }
    }

    /// The different words.
    pub fn words(&self) -> &[WordCount] {
        &self.words
    }

    /// The number of words, with each repetition.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Appends the words, to be stored.
    pub fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(4 + self.words.len() * STORED);
        bytes.extend(self.length.to_le_bytes());
        for WordCount { hash, count } in &*self.words {
            bytes.extend(hash.to_le_bytes());
            bytes.push(*count);
        }
    }

    /// Reads what [`Self::write_to`] wrote; `None` for other bytes.
    pub fn read_from(bytes: &[u8]) -> Option<TextWords> {
        let (length, words) = bytes.split_first_chunk()?;
        let (words, rest) = words.as_chunks::<STORED>();
        let word = |&[a, b, c, d, count]: &[u8; STORED]| {
            let hash = u32::from_le_bytes([a, b, c, d]);
            WordCount { hash, count }
        };
        let length = u32::from_le_bytes(*length);
        rest.is_empty().then(|| TextWords { words: words.iter().map(word).collect(), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_and_come_back_from_their_bytes() {
        let counts = TextWords::of("to be or not to be");
        assert_eq!((counts.length(), counts.words().len()), (6, 4));
        let mut twice: Vec<u8> = counts.words().iter().map(|word| word.count).collect();
        twice.sort_unstable();
        assert_eq!(twice, [1, 1, 2, 2]);
        assert_eq!(counts, TextWords::of("be, to; NOT or be: to"));
        for counts in [counts, TextWords::default(), TextWords::of(&"x ".repeat(300))] {
            let mut bytes = Vec::new();
            counts.write_to(&mut bytes);
            assert_eq!(TextWords::read_from(&bytes), Some(counts));
            bytes.push(0);
            assert_eq!(TextWords::read_from(&bytes), None);
        }
        assert_eq!(TextWords::read_from(&[1, 2]), None);
    }

    #[test]
    fn the_first_different_words_of_a_long_text_count() {
        let text: String = (0..2 * MOST_WORDS).map(|n| format!("w{n} w0 ")).collect();
        let words = TextWords::of(&text);
        assert_eq!((words.words().len(), words.length()), (MOST_WORDS, 4 * MOST_WORDS as u32));
        let has = |word: &str| {
            let wanted = TextWords::of(word).words()[0].hash;
            words.words().iter().any(|word| word.hash == wanted)
        };
        assert!(has("w0") && has("w4095") && !has("w4096"));
    }

    /// Hashes are stored: they are the same in every version of the program.
    #[test]
    fn hashes_stay_the_same() {
        let hash = |text| TextWords::of(text).words()[0].hash;
        assert_eq!(hash("lnsp"), XxHash3_64::oneshot(b"lnsp") as u32);
        assert_eq!(hash("Invoice"), HASH_OF_INVOICE);
    }

    /// As the reference implementation of XXH3 computes it.
    const HASH_OF_INVOICE: u32 = 0x6dcb_04a9;
}
