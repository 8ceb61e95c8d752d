//! The analyzer: from a text to the words that a keyword search compares.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Calls `take` with each word of a text, in order: letters and digits only, in lower case, without accents.
///
/// Words are those of the Unicode Standard (Annex 29). A number is often written with marks inside, and not always with
/// the same ones: so what stands without white space, has a digit, and is several words, is one more word as a whole.
/// `INV-2024/77` is `inv`, `2024`, `77` and `inv202477`.
pub fn for_each_word(text: &str, mut take: impl FnMut(&str)) {
    let mut word = String::new();
    for run in text.split_whitespace() {
        let mut parts = 0;
        for part in run.unicode_words() {
            fold(part, &mut word);
            if !word.is_empty() {
                take(&word);
                parts += 1;
            }
        }
        if parts > 1 && run.contains(char::is_numeric) {
            fold(run, &mut word);
            take(&word);
        }
    }
}

/// Writes the letters and digits of a part as they are compared.
fn fold(part: &str, word: &mut String) {
    word.clear();
    if part.is_ascii() {
        let kept = part.bytes().filter(u8::is_ascii_alphanumeric);
        word.extend(kept.map(|byte| char::from(byte.to_ascii_lowercase())));
    } else {
        // Compatibility forms are taken apart, so that an accent is a character of its own, and not a letter.
        word.extend(part.nfkd().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn words_are_compared_without_case_accents_and_marks() {
        assert_eq!(words("The Café, the CAFÉ!"), ["the", "cafe", "the", "cafe"]);
        assert_eq!(words("don\u{2019}t don't"), ["dont", "dont"]);
        assert_eq!(words("ﬁne ２０２４"), ["fine", "2024"]);
        assert_eq!(words(" -- … \n"), Vec::<String>::new());
        assert_eq!(words("请查发票77"), ["请", "查", "发", "票", "77", "请查发票77"]);
    }

    #[test]
    fn a_number_is_also_one_word_without_its_marks() {
        assert_eq!(words("INV-2024/77 paid"), ["inv", "2024", "77", "inv202477", "paid"]);
        assert_eq!(words("(INV 2024.77)"), ["inv", "202477"]);
        assert_eq!(words("well-known"), ["well", "known"]);
        for written in ["12.03.2024", "12-03-2024", "12/03/2024"] {
            assert_eq!(words(written).last().unwrap(), "12032024", "{written}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_words_of_letters_and_digits(text in "\\PC{0,60}") {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && word.chars().all(|c| !c.is_whitespace()), "{word:?}");
            }
        }

        /// Searching for any word of a text finds it.
        #[test]
        fn a_word_is_its_own_word(text in "[a-zA-Z0-9é ./-]{0,60}") {
            for word in words(&text) {
                prop_assert!(words(&word).contains(&word), "{word:?}");
            }
        }
    }
}
