//! What kind of text it is: an explanation, documented code, a report, a question, a letter. The kind says more about
//! task and modifier than the words do.

use super::own_words::OwnWords;

/// The number of kinds.
pub(super) const KINDS: usize = 6;

/// A kind of text, in the order of the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    /// Explains something to any reader.
    Reference,
    /// Documents an interface or a program.
    Code,
    /// Someone's problem.
    Report,
    /// Someone's question.
    Question,
    /// Someone's own words without either.
    Statement,
    /// Someone's words to someone.
    Letter,
}

/// What a word marks, in the order of the artefact.
#[derive(Debug, Clone, Copy)]
pub(super) enum Marker {
    /// The writer speaks of themselves.
    Person,
    /// Something is at fault.
    Problem,
    /// Something is asked for.
    Request,
    /// A letter begins with it.
    Greeting,
}

impl TextKind {
    /// By the marks of code in the text and the number of words with each marker. `greets` is whether its first line is
    /// a greeting.
    pub(super) fn of(own: &OwnWords<'_>, markers: &[usize], greets: bool) -> TextKind {
        let count = |marker: Marker| markers.get(marker as usize).copied().unwrap_or_default();
        let [person, problem, request] = [Marker::Person, Marker::Problem, Marker::Request].map(count);
        let code = code_marks(&own.text);
        let questions = memchr::memchr_iter(b'?', own.text.as_bytes()).count();
        if (code * 80 >= own.text.len() && code >= 2 && person <= 1) || (code >= 2 && person == 0) {
            TextKind::Code
        } else if (greets && (own.cut || person > 0)) || (own.cut && person > 0) {
            TextKind::Letter
        } else if person > 0 || questions > 0 || request > 0 {
            match (problem > 0, questions > 0 || request > 0) {
                (true, _) => TextKind::Report,
                (false, true) => TextKind::Question,
                (false, false) => TextKind::Statement,
            }
        } else if problem >= 2 {
            TextKind::Report
        } else {
            TextKind::Reference
        }
    }
}

/// The signs in a text that prose has none of: back ticks, calls, names in snake or camel case, paths, operators.
fn code_marks(text: &str) -> usize {
    let bytes = text.as_bytes();
    // Of a call, nothing in prose looks like it but a plural in brackets.
    let calls = bytes.windows(3).filter(
        |three| matches!(three, [name, b'(', after] if name.is_ascii_alphanumeric() && *after != b's'),
    );
    let pairs = bytes.windows(2).filter(|pair| match **pair {
        [b':', b':'] | [b'-' | b'=', b'>'] | [b'-', b'-'] | [b';', b'\n' | b'`'] => true,
        [before, b'_'] => before.is_ascii_alphanumeric(),
        [b'/', after] => after.is_ascii_lowercase(),
        [before, after] => before.is_ascii_lowercase() && after.is_ascii_uppercase(),
        _ => false,
    });
    let single = bytes.iter().filter(|byte| matches!(byte, b'`' | b'{' | b'}'));
    2 * calls.count() + pairs.count() + single.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::own_words::own_words;

    fn kind(text: &str, person: usize, problem: usize, request: usize, greets: bool) -> TextKind {
        TextKind::of(&own_words(text), &[person, problem, request], greets)
    }

    #[test]
    fn the_signs_decide() {
        use TextKind::{Code, Letter, Question, Reference, Report, Statement};
        assert_eq!(kind("Granite is a rock.", 0, 0, 0, false), Reference);
        assert_eq!(kind("`trim(text)` returns a copy; see `split()`.", 0, 1, 0, false), Code);
        assert_eq!(kind("My app crashes.", 1, 1, 0, false), Report);
        assert_eq!(kind("Does it fit? It fails, the copy is wrong.", 0, 2, 0, false), Report);
        assert_eq!(kind("How do I move my number?", 2, 0, 1, false), Question);
        assert_eq!(kind("I moved.", 1, 0, 0, false), Statement);
        assert_eq!(kind("Dear Ann,\nwe have moved.\nRegards\nB.", 1, 0, 0, true), Letter);
        assert_eq!(kind("Dear Ann, as the novel begins, is dead.", 0, 1, 0, true), Reference);
    }
}
