//! What is known of the lines of one file: which are settled, and how they were answered.
//!
//! A settled line is never sent again: it is stored, or it failed for good. One bit a line at most, however the lines
//! are scattered, and a few bytes for a run of them.

use super::answer::UploadFailure;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Failures that are kept as sentences; the others are counted.
pub const KEPT_COMPLAINTS: usize = 20;
/// Bytes of a sentence that is kept.
const COMPLAINT_BYTES: usize = 500;

/// The result of a line by its answer.
///
/// # Errors
/// The failure of a line that has to be sent again.
pub fn line_result(status: &str, error: Option<UploadFailure>) -> Result<LineResult, UploadFailure> {
    match (status, error) {
        ("stored", _) => Ok(LineResult::Stored),
        ("replaced", _) => Ok(LineResult::Replaced),
        ("duplicate", _) => Ok(LineResult::Duplicate),
        (_, Some(error)) if error.retryable => Err(error),
        (_, error) => Ok(LineResult::Failed(error.unwrap_or_else(|| UploadFailure {
            code: "error".to_owned(),
            message: "no reason given".to_owned(),
            retryable: false,
        }))),
    }
}

/// How many chunks got which answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadTally {
    /// Chunks that were committed.
    pub stored: u64,
    /// Chunks that took the place of stored ones.
    #[serde(default)]
    pub replaced: u64,
    /// Chunks that were stored before.
    pub duplicates: u64,
    /// Failed for good.
    pub failed: u64,
}

impl UploadTally {
    /// All settled chunks.
    pub fn settled(&self) -> u64 {
        self.stored + self.replaced + self.duplicates + self.failed
    }

    /// Of several files together.
    pub fn add(&mut self, other: &UploadTally) {
        self.stored += other.stored;
        self.replaced += other.replaced;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
    }
}

impl fmt::Display for UploadTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UploadTally { stored, replaced, duplicates, failed } = self;
        write!(f, "{stored} stored, ")?;
        if *replaced > 0 {
            write!(f, "{replaced} replaced, ")?;
        }
        write!(f, "{duplicates} duplicates, {failed} failed")
    }
}

/// How a line was answered for good.
#[derive(Debug)]
pub enum LineResult {
    /// The chunk was stored now.
    Stored,
    /// The chunk took the place of a stored one.
    Replaced,
    /// The chunk was stored before.
    Duplicate,
    /// And will not be, however often it is sent.
    Failed(UploadFailure),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    lines: RoaringTreemap,
    tally: UploadTally,
    complaints: Vec<String>,
}

impl Ledger {
    /// As it was written down; `None` when the parts do not fit together.
    pub fn restore(mut bits: &[u8], tally: UploadTally, complaints: Vec<String>) -> Option<Ledger> {
        let lines = RoaringTreemap::deserialize_from(&mut bits).ok()?;
        (lines.len() == tally.settled()).then_some(Ledger { lines, tally, complaints })
    }

    /// Writes the lines down, in the portable format of roaring bitmaps.
    pub fn write_lines(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        self.lines.optimize();
        self.lines.serialize_into(to)
    }

    /// Settles a line. Gives the sentence to print for one that failed, while there are not too many of them;
    /// a second answer to the same line changes nothing.
    pub fn settle(&mut self, line: u64, result: LineResult) -> Option<String> {
        if !self.lines.insert(line) {
            return None;
        }
        match result {
            LineResult::Stored => self.tally.stored += 1,
            LineResult::Replaced => self.tally.replaced += 1,
            LineResult::Duplicate => self.tally.duplicates += 1,
            LineResult::Failed(failure) => {
                self.tally.failed += 1;
                if self.complaints.len() < KEPT_COMPLAINTS {
                    let mut complaint = format!("line {line}: {failure}");
                    complaint.truncate(complaint.floor_char_boundary(COMPLAINT_BYTES));
                    self.complaints.push(complaint.clone());
                    return Some(complaint);
                }
            }
        }
        None
    }

    /// The settled lines as they are now.
    pub fn lines(&self) -> &RoaringTreemap {
        &self.lines
    }

    /// How the settled lines were answered.
    pub fn tally(&self) -> UploadTally {
        self.tally
    }

    /// The first lines that failed, as sentences.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }
}
