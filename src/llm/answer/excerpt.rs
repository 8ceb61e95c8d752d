//! JSON values inside the text of an answer: in code fences, after thoughts, in prose. Pure.

use crate::llm::prompt;
use serde::de::IgnoredAny;

/// The most places of a text where a value is looked for. An answer has one, and prose around it a few.
const PLACES: usize = 256;
/// The end of thoughts that a model writes into its answer.
const END_OF_THOUGHTS: &str = "</think>";

/// What the model says itself: after its thoughts, and after the text if it repeats the text with its marks. A
/// repetition without its end holds nothing but the text.
pub fn own_words<'a>(answer: &'a str, mark: &str) -> &'a str {
    let after = |end: &str| answer.rfind(end).map_or(0, |at| at + end.len());
    let own = &answer[after(END_OF_THOUGHTS).max(after(&prompt::closing(mark)))..];
    if own.contains(&prompt::opening(mark)) { "" } else { own }
}

/// The JSON values in a text that begin with `opening`, a bracket or a brace, from left to right. Values inside them are
/// not told apart from them.
pub fn values(text: &str, opening: char) -> Vec<&str> {
    let (mut found, mut at) = (Vec::new(), 0);
    for _ in 0..PLACES {
        let Some(start) = text[at..].find(opening).map(|start| at + start) else { break };
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<IgnoredAny>();
        at = match values.next() {
            Some(Ok(_)) => {
                let end = start + values.byte_offset();
                found.push(&text[start..end]);
                end
            }
            _ => start + opening.len_utf8(),
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_found_wherever_they_stand() {
        for (text, found) in [
            ("```json\n{\"a\": 1}\n```", vec!["{\"a\": 1}"]),
            (
                "Well, {that} is: {\"a\":{\"b\":2}}. Or {\"a\":\"}\"}?",
                vec!["{\"a\":{\"b\":2}}", "{\"a\":\"}\"}"],
            ),
            ("{\"a\":", vec![]),
            ("{{\"a\":1}}", vec!["{\"a\":1}"]),
            ("no value", vec![]),
        ] {
            assert_eq!(values(text, '{'), found, "{text}");
        }
        assert_eq!(values("see [1] and [4, 3, 59]", '['), ["[1]", "[4, 3, 59]"]);
    }

    #[test]
    fn a_text_full_of_brackets_is_given_up() {
        let deep = "{\"a\":".repeat(50_000);
        assert!(values(&deep, '{').is_empty());
        let wide = "{\"a\":1} ".repeat(50_000);
        assert_eq!(values(&wide, '{').len(), PLACES);
    }

    #[test]
    fn thoughts_and_repeated_texts_do_not_count() {
        let mark = "0123456789abcdef";
        for (answer, own) in [
            ("{1}", "{1}"),
            ("<think>{1}</think>{2}", "{2}"),
            ("Begin 0123456789abcdef\n{1}\nEnd 0123456789abcdef\n{2}", "\n{2}"),
            ("Begin 0123456789abcdef\n</think>{1}\nEnd 0123456789abcdef{2}", "{2}"),
            ("Begin 0123456789abcdef\n{1}", ""),
            ("<think>Begin 0123456789abcdef</think>{1}", "{1}"),
            ("Begin 0000000000000000\n{1}", "Begin 0000000000000000\n{1}"),
        ] {
            assert_eq!(own_words(answer, mark), own, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn a_value_survives_prose_around_it(before in "[^\\[\\]{}]{0,40}", after in ".{0,40}", n in 0..99u8) {
            let value = format!("{{\"a\": [{n}]}}");
            let text = format!("{before}{value}{after}");
            prop_assert_eq!(values(&text, '{')[0], &value);
            prop_assert_eq!(values(&text, '[')[0], format!("[{n}]"));
        }
    }
}
