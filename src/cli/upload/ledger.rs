//! What is known of the lines of one source: which are settled, and how they were answered.
//!
//! A settled line is never sent again: it is stored, or it failed for good. One bit a line at most, however the lines
//! are scattered, and a few bytes for a run of them.

use super::answer::{LineResult, StoredNotes};
use roaring::RoaringTreemap;
use std::fmt;

/// How many chunks got which answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadTally {
    /// Chunks that were committed.
    pub stored: u64,
    /// Chunks that took the place of stored ones.
    pub replaced: u64,
    /// Chunks that were stored before.
    pub duplicates: u64,
    /// Failed for good.
    pub failed: u64,
    /// Chunks without a text, where they are to be skipped.
    pub skipped: u64,
    /// Of the stored chunks, those of which the model read only the beginning.
    pub truncated: u64,
    /// Of the stored chunks, those of which the model does not know most characters.
    pub unread: u64,
}

impl UploadTally {
    /// All settled chunks.
    pub fn settled(&self) -> u64 {
        self.stored + self.replaced + self.duplicates + self.failed + self.skipped
    }

    /// Of several sources together.
    pub fn add(&mut self, other: &UploadTally) {
        self.stored += other.stored;
        self.replaced += other.replaced;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.truncated += other.truncated;
        self.unread += other.unread;
    }
}

impl fmt::Display for UploadTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UploadTally { stored, replaced, duplicates, failed, skipped, .. } = self;
        write!(f, "{stored} stored, ")?;
        if *replaced > 0 {
            write!(f, "{replaced} replaced, ")?;
        }
        write!(f, "{duplicates} duplicates, {failed} failed")?;
        if *skipped > 0 {
            write!(f, ", {skipped} skipped")?;
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    lines: RoaringTreemap,
    tally: UploadTally,
    skips_empty: bool,
}

impl Ledger {
    /// Nothing is settled. Chunks without a text count as skipped, or as failed.
    pub fn new(skips_empty: bool) -> Self {
        Ledger { skips_empty, ..Ledger::default() }
    }

    /// Settles a line. Whether it failed for good; a second answer to the same line changes nothing.
    pub fn settle(&mut self, line: u64, result: &LineResult) -> bool {
        if !self.lines.insert(line) {
            return false;
        }
        match result {
            LineResult::Stored(notes) => {
                self.tally.stored += 1;
                self.note(*notes);
            }
            LineResult::Replaced(notes) => {
                self.tally.replaced += 1;
                self.note(*notes);
            }
            LineResult::Duplicate(notes) => {
                self.tally.duplicates += 1;
                self.note(*notes);
            }
            LineResult::Failed(failure) if self.skips_empty && failure.code == "text_empty" => {
                self.tally.skipped += 1;
            }
            LineResult::Failed(_) => {
                self.tally.failed += 1;
                return true;
            }
        }
        false
    }

    fn note(&mut self, notes: StoredNotes) {
        self.tally.truncated += u64::from(notes.truncated);
        self.tally.unread += u64::from(notes.unread);
    }

    /// The settled lines as they are now.
    pub fn lines(&self) -> &RoaringTreemap {
        &self.lines
    }

    /// How the settled lines were answered.
    pub fn tally(&self) -> UploadTally {
        self.tally
    }
}
