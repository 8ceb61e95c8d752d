//! What an answer says about the fields of all chunks of a request, beside their results.

use crate::wire::UnknownFieldCounts;
use serde_json::{Value, json};

/// The fields of the chunks of a request that were not taken as they are.
#[derive(Debug, Default)]
pub struct UploadNotes {
    unknown: UnknownFieldCounts,
    vectors_ignored: u64,
}

impl UploadNotes {
    /// Counts the unknown fields of one chunk, and whether its vector is of another model.
    pub fn add(&mut self, unknown: &[String], has_other_vector: bool) {
        self.unknown.add(unknown);
        self.vectors_ignored += u64::from(has_other_vector);
    }

    /// Adds what there is to say to an answer.
    pub fn write(&self, answer: &mut Value) {
        if let Some(counts) = self.unknown.object() {
            answer["unknown_fields"] = counts;
        }
        if self.vectors_ignored > 0 {
            answer["vectors_ignored"] = json!(self.vectors_ignored);
        }
    }
}
