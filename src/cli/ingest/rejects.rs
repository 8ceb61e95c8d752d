//! The file that gets each refused line with its reason, so that it can be mended and sent again: `lnsp ingest` takes it
//! as it is, and sends what stands under `chunk`.

use crate::cli::upload::{RefusalSink, RefusedChunk};
use crate::input::{REJECTED_CHUNK, REJECTED_WHY};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// See the module.
pub struct RejectsFile(File);

impl RejectsFile {
    /// Creates the file, or empties it: what an earlier run has refused is sent again by this one.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> io::Result<RejectsFile> {
        File::create(path).map(RejectsFile)
    }
}

impl RefusalSink for RejectsFile {
    fn take(&mut self, refusal: &RefusedChunk<'_>) -> io::Result<()> {
        let why = json!({
            "code": refusal.failure.code, "message": refusal.failure.message, "file": refusal.source,
            refusal.unit: refusal.line,
        });
        let mut line = Vec::new();
        line.extend_from_slice(format!("{{\"{REJECTED_WHY}\":{why},\"{REJECTED_CHUNK}\":").as_bytes());
        line.extend_from_slice(&chunk(refusal.content.unwrap_or_default()));
        line.extend_from_slice(b"}\n");
        // A whole line at once: what another program reads meanwhile is never cut.
        self.0.write_all(&line)
    }
}

/// A chunk as it was sent; what is no JSON object as a string of its characters.
fn chunk(content: &[u8]) -> Vec<u8> {
    let content = content.trim_ascii();
    if content.is_empty() {
        return b"null".to_vec();
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(content) {
        Ok(_) if content.starts_with(b"{") => content.to_vec(),
        _ => Value::from(String::from_utf8_lossy(content)).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_kept_as_they_were_sent() {
        let kept = |content: &str| String::from_utf8(chunk(content.as_bytes())).unwrap();
        assert_eq!(kept("{\"text\": \"\", \"n\": 1.50}\r"), "{\"text\": \"\", \"n\": 1.50}");
        assert_eq!(kept("{\"text\": \"a"), "\"{\\\"text\\\": \\\"a\"");
        assert_eq!((kept("7"), kept("")), ("\"7\"".to_owned(), "null".to_owned()));
    }
}
