//! What a search needs of a row beside its vector.

use super::term::{Term, TermField, hash_of};
use crate::chunk::{Chunk, Metadata, scalar_text};
use crate::keyword::TextWords;
use crate::tmd::{Axis, Tmd};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The values of a row that its fields are made of.
#[derive(Debug, Clone, Copy)]
pub struct FieldValues<'a> {
    /// The codes of the row, if it has any.
    pub tmd: Option<Tmd>,
    /// The name of its dataset.
    pub dataset: &'a str,
    /// The id of its document.
    pub document: Option<&'a str>,
    /// The source document that the client named.
    pub source_document: Option<&'a str>,
    /// Its metadata, of which the texts, numbers and booleans on the first level count.
    pub metadata: Option<&'a Map<String, Value>>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// Its text, of which the hash and the words count.
    pub text: &'a str,
    /// See [`crate::chunk::Chunk::content_hash`]; its first eight bytes count.
    pub content_hash: [u8; 32],
}

/// What filters, preferences, collapsing and keywords need of a row, in few bytes: values and words are kept as hashes.
/// The default is a row without any value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterFields {
    /// The codes of the row, if it has any.
    pub tmd: Option<Tmd>,
    /// When it was stored, in microseconds since 1970.
    pub created_at: i64,
    /// Equal for the rows of one document of one dataset; 0 without a document.
    pub document: u64,
    /// Equal for equal texts.
    pub text: u64,
    /// Equal for equal contents. With the time it says whether two rows of one number are one row.
    pub content: u64,
    /// The values of its fields.
    pub terms: Arc<[Term]>,
    /// The words of its text.
    pub words: TextWords,
}

/// The bytes of stored fields before the terms: three codes, four words, the number of the terms.
const HEAD: usize = 3 + 4 * 8 + 4;
/// In place of a code: the row has none.
const NO_CODE: u8 = u8::MAX;

impl FilterFields {
    /// The fields of a row with these values.
    pub fn new(values: FieldValues<'_>) -> FilterFields {
        let FieldValues { tmd, dataset, document, source_document, metadata, created_at, text, content_hash } =
            values;
        let mut terms = vec![Term::new(TermField::Dataset, dataset)];
        let fields = [(TermField::Document, document), (TermField::SourceDocument, source_document)];
        terms.extend(fields.iter().filter_map(|(field, value)| Some(Term::new(*field, value.as_ref()?))));
        let axes = [TermField::Domain, TermField::Task, TermField::Modifier].into_iter().zip(Axis::ALL);
        terms.extend(
            tmd.iter().flat_map(|tmd| axes.clone().map(|(field, axis)| Term::new(field, tmd.code(axis)))),
        );
        terms.extend(
            metadata
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some(Term::new(TermField::Metadata(name), scalar_text(value)?))),
        );
        let document = document.map_or(0, |document| hash_of([dataset.as_bytes(), document.as_bytes()]));
        FilterFields {
            tmd,
            created_at: created_at.timestamp_micros(),
            document,
            text: text_hash(text),
            content: content_hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            terms: terms.into(),
            words: TextWords::of(text),
        }
    }

    /// The fields of a chunk as it is stored for the first time. Takes some ten microseconds: its metadata is read, and
    /// the words of its text are counted.
    pub fn of_chunk(chunk: &Chunk, tmd: Option<Tmd>) -> FilterFields {
        let metadata = chunk.metadata.as_ref().map(Metadata::fields);
        FilterFields::new(FieldValues {
            tmd,
            dataset: &chunk.key.dataset,
            document: chunk.placement.document_id.as_deref(),
            source_document: chunk.placement.source_document.as_deref(),
            metadata: metadata.as_ref(),
            created_at: chunk.received_at,
            text: &chunk.text,
            content_hash: chunk.content_hash,
        })
    }

    /// The fields of a row that was stored at this time: one that was replaced keeps it.
    #[must_use]
    pub fn stored_at(self, time: DateTime<Utc>) -> FilterFields {
        FilterFields { created_at: time.timestamp_micros(), ..self }
    }

    /// The fields without the words of the text.
    #[must_use]
    pub fn without_words(self) -> FilterFields {
        FilterFields { words: TextWords::default(), ..self }
    }

    /// The fields as bytes, to be stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.terms.len() * 8);
        bytes.extend(Axis::ALL.map(|axis| self.tmd.map_or(NO_CODE, |tmd| tmd.code(axis))));
        bytes.extend(self.created_at.to_le_bytes());
        bytes.extend(self.document.to_le_bytes());
        bytes.extend(self.text.to_le_bytes());
        bytes.extend(self.content.to_le_bytes());
        // A row has some terms, not billions.
        bytes.extend(u32::try_from(self.terms.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.terms.iter().flat_map(|term| term.bits().to_le_bytes()));
        self.words.write_to(&mut bytes);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` for other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<FilterFields> {
        let (codes, rest) = bytes.split_first_chunk::<3>()?;
        let (head, rest) = rest.split_first_chunk::<{ HEAD - 3 - 4 }>()?;
        let (words, _) = head.as_chunks::<8>();
        let [created_at, document, text, content] = words else { return None };
        let (terms, rest) = rest.split_first_chunk::<4>()?;
        let terms = usize::try_from(u32::from_le_bytes(*terms)).ok()?.checked_mul(8)?;
        let (terms, words) = rest.split_at_checked(terms)?;
        let (terms, _) = terms.as_chunks::<8>();
        let tmd = match *codes {
            [NO_CODE, NO_CODE, NO_CODE] => None,
            [domain, task, modifier] => Some(Tmd::new(domain, task, modifier).ok()?),
        };
        Some(FilterFields {
            tmd,
            created_at: i64::from_le_bytes(*created_at),
            document: u64::from_le_bytes(*document),
            text: u64::from_le_bytes(*text),
            content: u64::from_le_bytes(*content),
            terms: terms.iter().map(|term| Term::from_bits(u64::from_le_bytes(*term))).collect(),
            words: TextWords::read_from(words)?,
        })
    }
}

/// The first eight bytes of the SHA-256 of a text.
fn text_hash(text: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_come_back_from_their_bytes() {
        let metadata = json!({"lang": "en", "page": 7.0, "draft": false, "list": [1], "nothing": null});
        let mut values = FieldValues {
            tmd: Tmd::new(1, 2, 3).ok(),
            dataset: "d",
            document: Some("e"),
            source_document: None,
            metadata: metadata.as_object(),
            created_at: DateTime::UNIX_EPOCH,
            text: "A text of five words.",
            content_hash: [2; 32],
        };
        let fields = FilterFields::new(values);
        assert_eq!(fields.terms.len(), 1 + 1 + 3 + 3);
        assert!(fields.terms.contains(&Term::new(TermField::Metadata("page"), 7)));
        assert_eq!(FilterFields::from_bytes(&fields.to_bytes()), Some(fields.clone()));
        assert_eq!(FilterFields::from_bytes(&fields.to_bytes()[1..]), None);
        values = FieldValues { tmd: None, document: None, metadata: None, ..values };
        let fewer = FilterFields::new(values);
        assert_eq!((fewer.terms.len(), fewer.document), (1, 0));
        assert_eq!(FilterFields::from_bytes(&fewer.to_bytes()), Some(fewer));
    }
}
