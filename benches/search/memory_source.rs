//! A store in memory, so that only the index is measured. One row in two, in twenty, in two hundred, and in ten thousand
//! has a value of its metadata, for filters.

use super::corpus::Corpus;
use chrono::DateTime;
use lnsp_ingest::filter::{FieldValues, Filter, FilterFields, Term, TermField};
use lnsp_ingest::index::{ChangeSource, ChangedRow, Changes, DigestPage, SourceError, StoreClock};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Of so many rows one matches.
pub const SHARES: [usize; 4] = [2, 20, 200, 10_000];

/// The rows of a corpus, each changed once: the change of a row has the number after its place.
pub struct MemorySource {
    rows: Vec<ChangedRow>,
}

/// The metadata of a row.
pub fn metadata(place: usize) -> Map<String, Value> {
    let shares = SHARES.iter().filter(|share| place.is_multiple_of(**share));
    shares.map(|share| (format!("in_{share}"), true.into())).collect()
}

/// Finds the rows of a share.
pub fn filter(share: usize) -> Filter {
    Filter::Has(vec![Term::new(TermField::Metadata(&format!("in_{share}")), true)])
}

impl MemorySource {
    pub fn new(corpus: &Corpus) -> MemorySource {
        let row = |(place, vector): (usize, &Arc<[f32]>)| {
            let metadata = metadata(place);
            let (document, text) = ((place / 40).to_string(), place.to_string());
            let fields = FilterFields::new(FieldValues {
                tmd: None,
                dataset: "bench",
                document: Some(&document),
                source_document: None,
                metadata: Some(&metadata),
                created_at: DateTime::UNIX_EPOCH,
                text: &text,
                content_hash: [0; 32],
            });
            ChangedRow { seq: place as i64 + 1, item: place as u32, vector: vector.clone(), fields }
        };
        MemorySource { rows: corpus.rows.iter().enumerate().map(row).collect() }
    }

    pub fn rows(&self) -> &[ChangedRow] {
        &self.rows
    }

    /// The first rows only.
    pub fn first(&self, count: usize) -> MemorySource {
        MemorySource { rows: self.rows[..count].to_vec() }
    }
}

impl ChangeSource for MemorySource {
    fn changes_after(&self, seq: i64, limit: usize) -> Result<Changes, SourceError> {
        let after = usize::try_from(seq).unwrap_or_default().min(self.rows.len());
        let rows = self.rows[after..].iter().take(limit).cloned().collect();
        Ok(Changes { clock: self.rows.len() as i64, rows, tombstones: Vec::new() })
    }

    fn row_at(&self, seq: i64) -> Result<Option<ChangedRow>, SourceError> {
        Ok(usize::try_from(seq - 1).ok().and_then(|place| self.rows.get(place)).cloned())
    }

    fn clock(&self) -> Result<StoreClock, SourceError> {
        Ok(StoreClock { seq: self.rows.len() as i64, history: Arc::from("bench") })
    }

    fn digests(&self, _: u32, _: u32) -> Result<DigestPage, SourceError> {
        Err(SourceError::new("the bench compares nothing"))
    }

    fn rows_of(&self, _: u32) -> Result<Vec<ChangedRow>, SourceError> {
        Err(SourceError::new("the bench compares nothing"))
    }
}
