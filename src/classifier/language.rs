//! Tells the language of a text by its function words, and finds the subjects of words by lists of their beginnings.

use super::tokens::{WordCounts, for_each_word, is_foreign_script};
use rustc_hash::FxHashMap;

/// The most languages, and the bit of the first marker among the telling words.
pub(super) const MOST_LANGUAGES: usize = 24;

/// The number of the language that has the table of words.
const ENGLISH: usize = 0;

/// The votes of a word for the only domain that lists it.
const LISTED_VOTES: i32 = 36;

/// A beginning that is shorter counts only as a whole word, with at most an ending.
const SHORTEST_BEGINNING: usize = 4;

/// A beginning that is shorter does not count inside a compound.
const SHORTEST_INSIDE: usize = 5;

/// What the program knows about the language of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// English: each word has votes.
    English,
    /// The language with this number: the subjects of its words are listed.
    Listed(usize),
    /// No list: what the table says of such a text is a guess.
    Other,
}

/// A language and the words of it that are known.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) name: String,
    /// Beginnings of words, with the set of domains that list them.
    pub(super) beginnings: FxHashMap<Box<str>, u16>,
}

impl Language {
    /// Adds votes for the domains of the words of a text. Function words are left out. Returns the number of words
    /// with a vote.
    pub(super) fn vote(&self, text: &str, is_function: impl Fn(&str) -> bool, votes: &mut [i32]) -> usize {
        let longest = self.beginnings.keys().map(|word| word.len()).max().unwrap_or_default();
        // Only Germanic languages join nouns.
        let compounds = self.name == "german";
        let mut known = 0;
        for_each_word(text, |word| {
            if is_function(word) {
                return;
            }
            // The last parts of a compound say what it is.
            let mut found = [0_u16; 2];
            let mut at = 0;
            while at < word.len() {
                match self.longest_at(word, at, longest) {
                    Some((length, domains)) => {
                        found = [found[1], domains];
                        at += length;
                    }
                    None => at += 1,
                }
                if !compounds {
                    break;
                }
            }
            known += usize::from(found[1] != 0);
            for domains in found.into_iter().filter(|domains| *domains != 0) {
                let share = LISTED_VOTES / domains.count_ones() as i32;
                for (domain, sum) in votes.iter_mut().enumerate() {
                    *sum += if domains >> domain & 1 == 1 { share } else { 0 };
                }
            }
        });
        known
    }

    /// The longest beginning at a place of a word, which is ASCII.
    fn longest_at(&self, word: &str, at: usize, longest: usize) -> Option<(usize, u16)> {
        let rest = &word[at..];
        (1..=rest.len().min(longest)).rev().find_map(|length| {
            let domains = *self.beginnings.get(&rest[..length])?;
            let counts = match at {
                0 => length >= SHORTEST_BEGINNING || is_ending(&rest[length..]),
                _ => length >= SHORTEST_INSIDE,
            };
            counts.then_some((length, domains))
        })
    }
}

fn is_ending(rest: &str) -> bool {
    matches!(rest, "" | "s" | "n" | "e" | "en" | "es" | "er" | "a" | "o" | "as" | "os")
}

/// What the words of a text tell about it.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Function words of each language.
    functions: [usize; MOST_LANGUAGES],
    /// See [`super::kind::Marker`].
    pub(super) markers: [usize; 8],
}

impl Signs {
    /// Counts a word by the set of what it tells.
    pub(super) fn count(&mut self, mut set: u32) {
        while set != 0 {
            let bit = set.trailing_zeros() as usize;
            match bit.checked_sub(MOST_LANGUAGES) {
                Some(marker) => self.markers[marker] += 1,
                None => self.functions[bit] += 1,
            }
            set &= set - 1;
        }
    }

    /// The language of a text with these words.
    pub(super) fn reach(&self, text: &str, counts: &WordCounts, languages: &[Language]) -> Reach {
        if is_foreign_script(text) {
            return Reach::Other;
        }
        let english = self.functions[ENGLISH];
        // The first among equals: the order of the file.
        let best = (0..languages.len()).rev().max_by_key(|&n| self.functions[n]).unwrap_or(ENGLISH);
        let few_are_known = counts.whole * 4 < counts.words * 3;
        if self.functions[best] > english && (few_are_known || self.functions[best] >= 3) {
            let listed = languages.get(best).is_some_and(|language| !language.beginnings.is_empty());
            return if listed { Reach::Listed(best) } else { Reach::Other };
        }
        // Of English texts, hardly one has so few known words.
        if counts.whole * 3 < counts.words * 2 { Reach::Other } else { Reach::English }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn german(words: &[(&str, u16)]) -> Language {
        let beginnings = words.iter().map(|(word, domains)| (Box::from(*word), *domains)).collect();
        Language { name: "german".to_owned(), beginnings }
    }

    fn votes(language: &Language, text: &str) -> (usize, [i32; 3]) {
        let mut votes = [0; 3];
        (language.vote(text, |word| word == "der", &mut votes), votes)
    }

    #[test]
    fn words_vote_by_their_beginning_and_compounds_by_their_last_parts() {
        let language =
            german(&[("vertrag", 1), ("miet", 1), ("motor", 2), ("ei", 4), ("bau", 4), ("der", 4)]);
        assert_eq!(votes(&language, "der Ding"), (0, [0, 0, 0]));
        assert_eq!(votes(&language, "Vertrages der"), (1, [36, 0, 0]));
        assert_eq!(votes(&language, "Mietvertrag"), (1, [72, 0, 0]));
        assert_eq!(votes(&language, "Elektromotoren"), (1, [0, 36, 0]));
        assert_eq!(votes(&language, "Eier, Eisen, Neubau"), (1, [0, 0, 36]));
        let shared = german(&[("haft", 3)]);
        assert_eq!(votes(&shared, "Haftung"), (1, [18, 18, 0]));
    }

    #[test]
    fn function_words_tell_the_language() {
        let languages = [german(&[]), german(&[("motor", 2)]), german(&[])];
        let reach = |sets: &[u32], whole| {
            let mut signs = Signs::default();
            sets.iter().for_each(|set| signs.count(*set));
            signs.reach("text", &WordCounts { known: 4, words: 12, whole }, &languages)
        };
        assert_eq!(reach(&[1, 1, 2], 12), Reach::English);
        assert_eq!(reach(&[2, 2, 2, 3], 12), Reach::Listed(1));
        assert_eq!(reach(&[4, 4, 4, 4], 12), Reach::Other, "a language without a list");
        assert_eq!(reach(&[2], 6), Reach::Listed(1), "one word is enough where few are English");
        assert_eq!(reach(&[2], 12), Reach::English);
        assert_eq!(reach(&[], 4), Reach::Other);
        assert_eq!(reach(&[3, 3, 3], 12), Reach::English, "equal counts");
    }
}
