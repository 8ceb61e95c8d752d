//! The keys of rows that were refused: the number of a row says little about where it is in the old table.

use crate::cli::upload::{RefusalSink, RefusedChunk};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;

/// Keys that are kept of each code.
const KEPT: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub struct RefusedRows {
    codes: BTreeMap<String, Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    kept: Vec<String>,
    others: u64,
}

#[derive(Deserialize)]
struct SentRow {
    id: String,
}

impl RefusedRows {
    /// A sentence for each code.
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |(code, keys): (&String, &Keys)| {
            let others = match keys.others {
                0 => String::new(),
                others => format!(" and {others} others"),
            };
            format!("{code}: cpe_id {}{others}", keys.kept.join(", "))
        };
        self.codes.iter().filter(|(_, keys)| !keys.kept.is_empty()).map(sentence).collect()
    }
}

impl RefusalSink for RefusedRows {
    fn take(&mut self, refusal: &RefusedChunk<'_>) -> io::Result<()> {
        let keys = self.codes.entry(refusal.failure.code.clone()).or_default();
        let key = refusal.content.and_then(|line| serde_json::from_slice::<SentRow>(line).ok());
        match key {
            Some(SentRow { id }) if keys.kept.len() < KEPT => keys.kept.push(id),
            _ => keys.others += 1,
        }
        Ok(())
    }
}
