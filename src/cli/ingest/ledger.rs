//! What is known of the lines of one file: which are settled, and how they were answered.
//!
//! A settled line is never sent again: it is stored, or it failed for good. One bit a line at most, however the lines
//! are scattered, and a few bytes for a run of them.

use super::answer::Failure;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Failures that are kept as sentences; the others are counted.
pub const KEPT_COMPLAINTS: usize = 20;
/// Bytes of a sentence that is kept.
const COMPLAINT_BYTES: usize = 500;

/// How many chunks got which answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Committed.
    pub stored: u64,
    /// Known before.
    pub duplicates: u64,
    /// Failed for good.
    pub failed: u64,
}

impl Tally {
    /// All of them.
    pub fn settled(&self) -> u64 {
        self.stored + self.duplicates + self.failed
    }

    /// Of several files together.
    pub fn add(&mut self, other: &Tally) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { stored, duplicates, failed } = self;
        write!(f, "{stored} stored, {duplicates} duplicates, {failed} failed")
    }
}

/// How a line was answered for good.
#[derive(Debug)]
pub enum Fate {
    /// Just now.
    Stored,
    /// Before.
    Duplicate,
    /// And will not be, however often it is sent.
    Failed(Failure),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    lines: RoaringTreemap,
    tally: Tally,
    complaints: Vec<String>,
}

impl Ledger {
    /// As it was written down; `None` when the parts do not fit together.
    pub fn restore(mut bits: &[u8], tally: Tally, complaints: Vec<String>) -> Option<Ledger> {
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
    pub fn settle(&mut self, line: u64, fate: Fate) -> Option<String> {
        if !self.lines.insert(line) {
            return None;
        }
        match fate {
            Fate::Stored => self.tally.stored += 1,
            Fate::Duplicate => self.tally.duplicates += 1,
            Fate::Failed(failure) => {
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
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The first lines that failed, as sentences.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }
}
