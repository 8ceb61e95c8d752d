//! Makes text harmless for a terminal and for a log that is read by lines.

/// The most characters of a line; what is cut off is shown as `...`.
pub const LONGEST_LINE: usize = 8192;

/// The text as one line of at most [`LONGEST_LINE`] characters. Control characters, line breaks among them, and those
/// that change the direction of text become visible escapes such as `\u{1b}`; all other characters stay.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_escaped(&mut escaped, text);
    escaped
}

/// As [`escape`] for each line of a text whose line breaks are our own.
pub fn escape_lines(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            escaped.push('\n');
        }
        push_escaped(&mut escaped, line);
    }
    escaped
}

/// A JSON document that others have written, as the same document without characters that change the terminal. They can
/// only stand in its strings, where JSON has escapes for them; line breaks between its values stay.
pub fn escape_json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for character in document.chars() {
        match character {
            '\n' | '\r' | '\t' => escaped.push(character),
            // All of them have at most four hexadecimal digits.
            character if changes_the_terminal(character) => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            character => escaped.push(character),
        }
    }
    escaped
}

fn push_escaped(escaped: &mut String, text: &str) {
    let mut length = 0;
    for character in text.chars() {
        let begin = escaped.len();
        match character {
            '\n' | '\r' | '\t' => escaped.extend(character.escape_default()),
            character if changes_the_terminal(character) => escaped.extend(character.escape_unicode()),
            character => escaped.push(character),
        }
        length += escaped[begin..].chars().count();
        if length > LONGEST_LINE {
            escaped.truncate(begin);
            escaped.push_str("...");
            return;
        }
    }
}

/// Whether a character does something else than to show itself: C0, DEL, C1, the marks, embeddings, overrides and
/// isolates of bidirectional text, and the separators of lines and paragraphs.
fn changes_the_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequences_that_command_a_terminal_are_shown_and_printable_text_stays() {
        assert_eq!(escape("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(escape("done\rlnsp: ok\n"), "done\\rlnsp: ok\\n");
        assert_eq!(escape("\u{9b}2J\u{7f}\0\t"), "\\u{9b}2J\\u{7f}\\u{0}\\t");
        assert_eq!(escape("gpj.\u{202e}exe\u{2066}\u{200f}"), "gpj.\\u{202e}exe\\u{2066}\\u{200f}");
        let plain = "Gödel 漢字 שלום مرحبا 👩‍👩‍👧 ✅ \\ \"x\" e\u{301}";
        assert_eq!(escape(plain), plain);
        assert_eq!(escape_lines("a\nb\u{1b}\r\n"), "a\nb\\u{1b}\\r\n");
    }

    #[test]
    fn foreign_json_stays_the_same_document() {
        let document = "{\"a\":\n \"\u{9b}2J\u{202e}x\u{7f}\u{2028}漢\"}";
        let escaped = escape_json(document);
        assert_eq!(escaped, "{\"a\":\n \"\\u009b2J\\u202ex\\u007f\\u2028漢\"}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&escaped), read(document));
    }

    #[test]
    fn a_line_has_a_bound() {
        let longest = "x".repeat(LONGEST_LINE);
        assert_eq!(escape(&longest), longest);
        assert_eq!(escape(&format!("{longest}y")), format!("{longest}..."));
        let many = escape(&"\u{1b}".repeat(LONGEST_LINE));
        assert!(many.chars().count() <= LONGEST_LINE + 3 && many.ends_with("\\u{1b}..."));
        assert_eq!(escape_lines(&format!("{longest}\n{longest}")).len(), 2 * LONGEST_LINE + 1);
    }

    proptest! {
        #[test]
        fn nothing_that_changes_the_terminal_comes_through(
            text in proptest::collection::vec(any::<char>(), 0..200).prop_map(String::from_iter),
            controls in "[\u{0}-\u{20}\u{7f}-\u{a0}\u{200b}-\u{2070}]{0,50}",
        ) {
            let text = text + &controls;
            let escaped = escape(&text);
            prop_assert!(!escaped.chars().any(changes_the_terminal), "{:?}", escaped);
            let printable: String = text.chars().filter(|c| !changes_the_terminal(*c)).collect();
            prop_assert_eq!(escape(&printable), printable);
            prop_assert_eq!(escape(&escaped), escaped);
            let lines = escape_lines(&text);
            prop_assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
            prop_assert!(!lines.split('\n').any(|line| line.chars().any(changes_the_terminal)));
        }
    }
}
