//! What of a text the vocabulary of a model does not know. BERT's tokenizer gives one unknown token to a whole word with
//! a letter that it lacks, and to a word of more than 100 characters; SentencePiece gives one to such letters alone.

use serde::Deserialize;
use serde_json::Value;

/// The parts of `tokenizer.json` that name the unknown token: its text, or, in a SentencePiece model, its number.
#[derive(Deserialize)]
struct TokenizerFile {
    model: UnknownToken,
}

#[derive(Deserialize)]
struct UnknownToken {
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    unk_id: Value,
}

/// The id of the token that stands for what the vocabulary does not know; `None` if the tokenizer has none.
///
/// # Errors
/// A sentence if `json` is no tokenizer file.
pub(super) fn unknown_token(json: &[u8], tokenizer: &tokenizers::Tokenizer) -> Result<Option<u32>, String> {
    let file: TokenizerFile = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let by_number = file.model.unk_id.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(by_number.or_else(|| tokenizer.token_to_id(file.model.unk_token.as_str()?)))
}

/// The share of the characters of `text` that are in `places`, if it is above one half. White space does not count.
/// `places` are ranges of bytes in ascending order; they may overlap, because one character can become several tokens.
pub(super) fn share(text: &str, places: impl IntoIterator<Item = (usize, usize)>) -> Option<f32> {
    let visible = |part: &str| part.chars().filter(|character| !character.is_whitespace()).count();
    let (mut unread, mut counted) = (0, 0);
    for (start, end) in places {
        unread += text.get(start.max(counted)..end).map_or(0, visible);
        counted = counted.max(end);
    }
    let all = visible(text);
    (2 * unread > all).then(|| unread as f32 / all as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_characters_and_only_told_above_one_half() {
        assert_eq!(share("ab cd", [(0, 2)]), None, "just one half");
        assert_eq!(share("ab cd e", [(0, 2), (3, 5)]), Some(0.8));
        assert_eq!(share("  ก ข\n", [(2, 5), (6, 9)]), Some(1.0), "characters, not bytes or white space");
        assert_eq!(share("㍿a", [(0, 3), (0, 3), (0, 3)]), None, "a character counts once");
        assert_eq!(share("ก", [(0, 2), (0, 99)]), None, "what is no range of the text does not count");
        assert_eq!(share(" \n", [(0, 2)]), None);
        assert_eq!(share("", []), None);
    }
}
