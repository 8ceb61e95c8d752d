//! Text to tokens.

use super::{EncodeError, ModelFiles};
use std::borrow::Cow;
use std::fmt;
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

/// A text as the model reads it, special tokens included. Not padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The token ids.
    pub ids: Box<[i32]>,
    /// The text was longer than the model reads.
    pub truncated: bool,
}

impl Tokens {
    /// The number of tokens: what the text costs.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Never so for tokens that a [`Tokenizer`] made.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Makes [`Tokens`] of texts, on any number of threads at once; share it by `Arc`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    lowercase: bool,
    /// Tokens before a white space do not depend on what follows it.
    splits_at_white_space: bool,
}

/// How long a prefix of a long text is tried first, per token of the limit. English has four bytes a token; texts
/// with a lower density than this one are tried again, twice as long.
const BYTES_PER_TOKEN: usize = 12;

impl Tokenizer {
    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    /// When the file cannot be used, or belongs to a model with a larger vocabulary.
    pub fn load(files: &ModelFiles) -> Result<Self, EncodeError> {
        let bad = |reason: String| EncodeError::bad_file(&files.tokenizer, reason);
        let mut inner =
            tokenizers::Tokenizer::from_file(&files.tokenizer).map_err(|error| bad(error.to_string()))?;
        // What the file says about both is a leftover of its training.
        inner.with_padding(None);
        let limit = TruncationParams {
            max_length: files.max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        inner.with_truncation(Some(limit)).map_err(|error| bad(error.to_string()))?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or_default() as usize;
        if largest >= files.architecture.vocabulary {
            return Err(bad(format!(
                "expected token ids below {} (vocab_size in config.json), received {largest}; \
                 both must come from the same model",
                files.architecture.vocabulary
            )));
        }
        Ok(Tokenizer {
            splits_at_white_space: splits_at_white_space(&inner),
            inner,
            max_tokens: files.max_tokens,
            lowercase: files.lowercase,
        })
    }

    /// The longest input in tokens; what is beyond is cut off.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokenizes one text. Its cost is bounded by the limit of tokens rather than by the length of the text,
    /// unless the text has no white space.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`] when the tokenizer refuses the text.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, EncodeError> {
        let text: Cow<'_, str> = if self.lowercase { text.to_lowercase().into() } else { text.into() };
        if self.splits_at_white_space {
            let mut bytes = self.max_tokens * BYTES_PER_TOKEN;
            while let Some(prefix) = prefix_up_to_white_space(&text, bytes) {
                let tokens = self.run(prefix)?;
                // More tokens than fit stand before the cut: the rest of the text cannot change any of them.
                if tokens.truncated {
                    return Ok(tokens);
                }
                bytes = prefix.len() * 2;
            }
        }
        self.run(&text)
    }

    fn run(&self, text: &str) -> Result<Tokens, EncodeError> {
        let encoding = self
            .inner
            .encode_fast(text, true)
            .map_err(|error| EncodeError::Tokenize { reason: error.to_string() })?;
        let ids = encoding.get_ids().iter().map(|&id| i32::try_from(id)).collect::<Result<_, _>>();
        Ok(Tokens {
            ids: ids.map_err(|error| EncodeError::Tokenize { reason: error.to_string() })?,
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

/// True for BERT's own normalizer and splitter: the first works character by character, the second cuts at every
/// white space. Others may look further (SentencePiece does), so for them the whole text is read.
fn splits_at_white_space(tokenizer: &tokenizers::Tokenizer) -> bool {
    use tokenizers::normalizers::NormalizerWrapper;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    matches!(tokenizer.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)))
        && matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
        // A special token that swallows the space beside it, or holds one, could reach over the cut.
        && tokenizer
            .get_added_tokens_decoder()
            .values()
            .all(|token| !token.lstrip && !token.rstrip && !token.content.contains(char::is_whitespace))
}

/// The text up to its first white space at or after `bytes`; `None` if there is none. Only those four characters
/// count that the normalizer keeps as white space and that nothing combines with.
fn prefix_up_to_white_space(text: &str, bytes: usize) -> Option<&str> {
    let tail = text.as_bytes().get(bytes..)?;
    let space = tail.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))?;
    text.get(..bytes + space)
}
