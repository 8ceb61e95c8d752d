//! Text to tokens.

use super::charsmap::check_charsmaps;
use super::error::{EncodeError, beginning};
use super::json_file::FETCH_AGAIN;
use super::model_files::ModelFiles;
use super::unread;
use crate::threads::catch_panic;
use std::borrow::Cow;
use std::fmt;
use std::fs;
use tokenizers::{Encoding, TruncationDirection, TruncationParams, TruncationStrategy};

/// A tokenized text, including special tokens, without padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// The token ids, in order.
    pub ids: Box<[i32]>,
    /// Whether the text was truncated to the limit of the model.
    pub truncated: bool,
    /// The share of characters that the vocabulary does not know, if it is above one half: of all that are not white
    /// space, in the part of the text that the model reads.
    pub unread: Option<f32>,
}

impl Tokens {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens; never true for the result of a [`Tokenizer`].
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Tokenizes texts; can be shared by threads in an `Arc`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    lowercase: bool,
    vocabulary: usize,
    /// The token of what the vocabulary does not know; `None` if it knows every text, as those of bytes do.
    unknown: Option<u32>,
    /// Whether tokens before white space are independent of the text after it.
    splits_at_white_space: bool,
}

/// The bytes per token of the limit in the first prefix of a long text. English has about four bytes per token. If the
/// prefix has too few tokens, a prefix of twice the length is tried.
const BYTES_PER_TOKEN: usize = 12;

/// Texts for trying a tokenizer out: words, numbers, accents, compatibility forms, scripts without blanks, emoji.
const TRIALS: [&str; 4] = [
    "The quick brown fox, 1931. ",
    "Go\u{308}del’s ﬁ ½ Ａ\u{3000}ß İ ",
    "光合作用 한국어 かな مرحبا ",
    "👩‍👩‍👧 ✅\n\t\u{200b}x",
];
/// How often a long trial repeats them, at most.
const LONG_TRIAL: usize = 64;

impl Tokenizer {
    /// Loads the tokenizer of a model.
    ///
    /// # Errors
    /// [`EncodeError::BadFile`] if the file is invalid, or has token ids beyond the vocabulary of the model.
    pub fn load(files: &ModelFiles) -> Result<Self, EncodeError> {
        let read = fs::read(&files.tokenizer);
        let json = read.map_err(|error| EncodeError::bad_file(&files.tokenizer, error.to_string()))?;
        Self::from_json(&json, files)
    }

    /// The tokenizer of a model, from the content of its `tokenizer.json`. The library panics on some files, when it
    /// reads them or at the first text, so some texts are tokenized here.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(json: &[u8], files: &ModelFiles) -> Result<Self, EncodeError> {
        let read = catch_panic(|| Self::build(json, files).and_then(Self::tried_out));
        read.unwrap_or_else(|panic| Err(format!("its reader fails: {panic}"))).map_err(|reason| {
            EncodeError::bad_file(&files.tokenizer, format!("{}; {FETCH_AGAIN}", beginning(&reason)))
        })
    }

    fn build(json: &[u8], files: &ModelFiles) -> Result<Self, String> {
        let bad = |error: tokenizers::Error| error.to_string();
        check_charsmaps(json)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        // The padding and truncation in the file are left over from training.
        inner.with_padding(None);
        let limit = TruncationParams {
            max_length: files.max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        inner.with_truncation(Some(limit)).map_err(bad)?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or_default() as usize;
        if largest >= files.architecture.vocabulary {
            return Err(format!(
                "expected token ids below {} (vocab_size in config.json), received {largest}; \
                 both must come from the same model",
                files.architecture.vocabulary
            ));
        }
        Ok(Tokenizer {
            splits_at_white_space: splits_at_white_space(&inner),
            unknown: unread::unknown_token(json, &inner)?,
            inner,
            max_tokens: files.max_tokens,
            lowercase: files.lowercase,
            vocabulary: files.architecture.vocabulary,
        })
    }

    /// Tokenizes texts of several scripts and lengths, whose tokens the model must be able to take.
    fn tried_out(self) -> Result<Self, String> {
        let long = TRIALS.concat().repeat(self.max_tokens.min(LONG_TRIAL));
        for text in TRIALS.into_iter().chain([long.as_str()]) {
            let tokens = self.tokenize(text).map_err(|error| error.to_string())?;
            if tokens.is_empty() || tokens.len() > self.max_tokens {
                let most = self.max_tokens;
                return Err(format!("expected 1 to {most} tokens of a text, received {}", tokens.len()));
            }
            let foreign = tokens.ids.iter().find(|&&id| id as u32 as usize >= self.vocabulary);
            if let Some(id) = foreign {
                return Err(format!("expected token ids below {}, received {id}", self.vocabulary));
            }
        }
        Ok(self)
    }

    /// The longest result in tokens; longer texts are truncated.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokenizes one text. With BERT's tokenizer, the cost depends on the limit of tokens rather than on the length of
    /// the text, unless the text has no white space.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`] with the message of the tokenizer.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, EncodeError> {
        let text: Cow<'_, str> = if self.lowercase { text.to_lowercase().into() } else { text.into() };
        if self.splits_at_white_space {
            let mut bytes = self.max_tokens * BYTES_PER_TOKEN;
            while let Some(prefix) = prefix_up_to_white_space(&text, bytes) {
                let encoding = self.run(prefix)?;
                // The prefix has more tokens than the limit, so the rest of the text cannot change the result.
                if is_truncated(&encoding) {
                    return self.tokens(prefix, &encoding);
                }
                bytes = prefix.len() * 2;
            }
        }
        self.tokens(&text, &self.run(&text)?)
    }

    fn run(&self, text: &str) -> Result<Encoding, EncodeError> {
        self.inner.encode_fast(text, true).map_err(|error| failed(&*error))
    }

    fn tokens(&self, text: &str, encoding: &Encoding) -> Result<Tokens, EncodeError> {
        let ids = encoding.get_ids().iter().map(|&id| i32::try_from(id)).collect::<Result<_, _>>();
        Ok(Tokens {
            ids: ids.map_err(|error| failed(&error))?,
            truncated: is_truncated(encoding),
            unread: self.unread(text, encoding)?,
        })
    }

    /// The share of unknown characters, if it is above one half. `encoding` says where tokens are only if it is asked
    /// to, which takes longer, so a text with an unknown token is tokenized a second time.
    fn unread(&self, text: &str, encoding: &Encoding) -> Result<Option<f32>, EncodeError> {
        if encoding.get_special_tokens_mask().iter().all(|&special| special == 1) {
            // Not one token is of the text: its characters were removed, as control characters are.
            return Ok(unread::share(text, [(0, text.len())]));
        }
        let Some(unknown) = self.unknown.filter(|id| encoding.get_ids().contains(id)) else {
            return Ok(None);
        };
        let located = self.inner.encode(text, true).map_err(|error| failed(&*error))?;
        let end = located.get_offsets().iter().map(|&(_, end)| end).max().unwrap_or_default();
        let read = if is_truncated(&located) { text.get(..end).unwrap_or(text) } else { text };
        let places = located.get_ids().iter().zip(located.get_offsets());
        let places = places.filter(|(id, _)| **id == unknown).map(|(_, place)| *place);
        Ok(unread::share(read, places))
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

fn failed(error: &dyn std::error::Error) -> EncodeError {
    EncodeError::Tokenize { reason: error.to_string() }
}

fn is_truncated(encoding: &Encoding) -> bool {
    !encoding.get_overflowing().is_empty()
}

/// True for BERT's normalizer, which works per character, and BERT's pre-tokenizer, which splits at white space.
/// Others, such as SentencePiece, may look across white space, so they need the whole text.
fn splits_at_white_space(tokenizer: &tokenizers::Tokenizer) -> bool {
    use tokenizers::normalizers::NormalizerWrapper;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    matches!(tokenizer.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)))
        && matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
        // A special token that strips adjacent white space or contains some could span the cut.
        && tokenizer
            .get_added_tokens_decoder()
            .values()
            .all(|token| !token.lstrip && !token.rstrip && !token.content.contains(char::is_whitespace))
}

/// The text up to the first white space at or after the index `bytes`; `None` if there is none. Considers only the four
/// characters that the normalizer keeps as white space and that do not combine with others.
fn prefix_up_to_white_space(text: &str, bytes: usize) -> Option<&str> {
    let tail = text.as_bytes().get(bytes..)?;
    let space = tail.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))?;
    text.get(..bytes + space)
}
