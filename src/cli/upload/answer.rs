//! The lines of the service's answer, as far as an upload reads them.

use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// A line of the answer.
#[derive(Debug)]
pub enum UploadResponse {
    /// What became of a chunk.
    Result {
        /// Its line in what was sent, from 1.
        line: u64,
        /// The result, or the failure of a line that has to be sent again.
        result: Result<LineResult, UploadFailure>,
    },
    /// The last line of the answer.
    Summary {
        /// The upload was read to its end.
        complete: bool,
        /// Why it was not.
        error: UploadFailure,
        /// Fields that are not known, with the number of chunks that have them.
        unknown_fields: BTreeMap<String, u64>,
    },
}

/// How a line was answered for good.
#[derive(Debug)]
pub enum LineResult {
    /// The chunk was stored now.
    Stored(StoredNotes),
    /// The chunk took the place of a stored one.
    Replaced(StoredNotes),
    /// The chunk was stored before.
    Duplicate(StoredNotes),
    /// And will not be, however often it is sent.
    Failed(UploadFailure),
}

/// What the model could not read of a chunk that is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredNotes {
    /// It read only the beginning of the text.
    pub truncated: bool,
    /// It does not know most characters of the text.
    pub unread: bool,
}

/// Why something failed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct UploadFailure {
    /// The stable name.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Sending it again can help.
    pub retryable: bool,
}

impl fmt::Display for UploadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The object that explains an answer which is no stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServerRefusal {
    /// The explanation.
    pub error: UploadFailure,
}

/// The fields of all kinds of lines; reading one object into the fields of its kind alone takes twice as long.
#[derive(Deserialize)]
struct AnswerLine<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    line: Option<u64>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    error: Option<UploadFailure>,
    #[serde(default)]
    truncated: bool,
    unread: Option<f64>,
    #[serde(default)]
    complete: bool,
    #[serde(default)]
    unknown_fields: BTreeMap<String, u64>,
}

impl UploadResponse {
    /// Reads a line. `None` for one of a kind that this version does not know.
    pub fn read(json: &[u8]) -> Option<UploadResponse> {
        let answer: AnswerLine<'_> = serde_json::from_slice(json).ok()?;
        match answer.kind.as_ref() {
            "result" => {
                let notes = StoredNotes { truncated: answer.truncated, unread: answer.unread.is_some() };
                let result = line_result(answer.status.as_deref()?, answer.error, notes);
                Some(UploadResponse::Result { line: answer.line?, result })
            }
            "summary" => Some(UploadResponse::Summary {
                complete: answer.complete,
                error: answer.error.unwrap_or_default(),
                unknown_fields: answer.unknown_fields,
            }),
            _ => None,
        }
    }
}

fn line_result(
    status: &str,
    error: Option<UploadFailure>,
    notes: StoredNotes,
) -> Result<LineResult, UploadFailure> {
    match (status, error) {
        ("stored", _) => Ok(LineResult::Stored(notes)),
        ("replaced", _) => Ok(LineResult::Replaced(notes)),
        ("duplicate", _) => Ok(LineResult::Duplicate(notes)),
        (_, Some(error)) if error.retryable => Err(error),
        (_, error) => Ok(LineResult::Failed(error.unwrap_or_else(|| UploadFailure {
            code: "error".to_owned(),
            message: "no reason given".to_owned(),
            retryable: false,
        }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_answer_are_read_by_their_kind_and_unknown_ones_are_passed_over() {
        let read = |json: &str| format!("{:?}", UploadResponse::read(json.as_bytes()));
        assert!(
            read(r#"{"type":"result","line":3,"status":"stored","truncated":true,"unread":0.7,"seq":1}"#)
                .contains("line: 3, result: Ok(Stored(StoredNotes { truncated: true, unread: true }))")
        );
        assert!(
            read(r#"{"type":"result","line":3,"status":"error","error":{"code":"lost","retryable":true}}"#)
                .contains("Err(")
        );
        assert!(read(r#"{"type":"result","line":3,"status":"error"}"#).contains("Ok(Failed("));
        assert!(
            read(r#"{"type":"summary","errors":true,"complete":true,"unknown_fields":{"x":2}}"#)
                .contains("complete: true")
        );
        for other in [r#"{"type":"heartbeat"}"#, r#"{"type":"result"}"#, "[]", "x"] {
            assert!(UploadResponse::read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
