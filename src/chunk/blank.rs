//! Texts in which there is nothing to read.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Whether there is nothing to read in a text: it has only white space, and characters that Unicode says are not
/// displayed (zero-width and bidirectional marks, soft hyphens, variation selectors, fillers, controls).
pub fn is_blank(text: &str) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let category = CodePointMapData::<GeneralCategory>::new();
    text.chars().all(|c| {
        // The blank among the Braille patterns counts as a symbol.
        c.is_whitespace()
            || c == '\u{2800}'
            || ignorable.contains(c)
            || matches!(category.get(c), GeneralCategory::Control | GeneralCategory::Format)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_visible_character_is_blank() {
        for blank in [
            "",
            " \n\t\u{a0}\u{3000}\u{2028}\u{85}",
            "\u{200b}",
            "\u{feff}\u{ad}",
            "\u{2060}\u{200d}",
            "\u{202e}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}",
            "\u{fe0f}\u{e0100}",
            "\u{3164}\u{115f}\u{1160}\u{ffa0}",
            "\u{1}\u{7f}\u{9f}",
            "\u{180e}\u{34f}\u{17b4}",
            "\u{e0041}\u{1d173}",
            " \u{200b} ",
            "\u{2800}\u{2800}",
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for visible in
            ["a", "\u{200b}a", ".", "\u{1f600}", "\u{2764}\u{fe0f}", "\u{e4}", "\u{6c34}", "\u{301}"]
        {
            assert!(!is_blank(visible), "{visible:?}");
        }
    }
}
