//! What the results of both modes have in common.

use crate::outcome::StoredChunk;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

/// A time in microseconds, in which two chunks differ, as ISO 8601. Texts sort as the times do.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Adds what is said only of some chunks: where the CPESH parts of the row come from, or why there are none; the fields in
/// which a duplicate differs from the stored chunk; and that the model could read little of the text.
pub fn add_notes(result: &mut Value, stored: &StoredChunk) {
    let extraction = &stored.row.extraction;
    if let Some(source) = extraction.source() {
        result["cpesh_source"] = json!(source);
    }
    if let Some(failure) = extraction.failure() {
        result["cpesh_failure"] = json!(failure);
    }
    let differs = stored.differs.fields();
    if !differs.is_empty() {
        result["differs"] = json!(differs);
    }
    if let Some(share) = stored.row.unread {
        result["unread"] = json!((f64::from(share) * 1e3).round() / 1e3);
    }
}
