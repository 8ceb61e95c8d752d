//! The JSON objects of requests, in the field names of the old service. Unknown fields are refused by name.

use super::bounded::BoundedList;
use super::json_guard;
use super::metadata::SentMetadata;
use crate::chunk::{
    Batch, Chunk, Draft, MAX_LINKS, Metadata, OnConflict, Placement, check_count, check_name, check_not_blank,
};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The most chunks in a JSON body.
pub const MAX_CHUNKS: usize = 10_000;

/// `POST /ingest` as `application/json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestRequest {
    /// The chunks; the answer has one result for each, in this order.
    pub chunks: BoundedList<WireChunk, MAX_CHUNKS>,
    /// See [`IngestOptions::dataset_source`].
    #[serde(default = "user_input")]
    pub dataset_source: String,
    /// See [`IngestOptions::batch_id`].
    pub batch_id: Option<String>,
    /// See [`IngestOptions::skip_cpesh`].
    #[serde(default)]
    pub skip_cpesh: bool,
    /// See [`IngestOptions::chunking_time_ms`].
    pub chunking_time_ms: Option<f64>,
    /// See [`IngestOptions::on_conflict`].
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// What applies to all chunks of a request. An NDJSON upload has it as query parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestOptions {
    /// The dataset of the chunks; chunk ids are unique within a dataset.
    #[serde(default = "user_input")]
    pub dataset_source: String,
    /// Stored with each chunk; not part of its content.
    pub batch_id: Option<String>,
    /// Accepted for old clients. Concept, probe and answer are never made so far, whatever the value.
    #[serde(default)]
    pub skip_cpesh: bool,
    /// Milliseconds that the client spent on chunking; repeated in the timings of the answer.
    pub chunking_time_ms: Option<f64>,
    /// What happens to a chunk whose id is stored with other content.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

fn user_input() -> String {
    "user_input".to_owned()
}

impl IngestOptions {
    /// Checks the names that all chunks share and returns them.
    ///
    /// # Errors
    /// A dataset or a batch id that no chunk could have.
    pub fn names(&self) -> Result<SharedNames, Rejection> {
        check_name("dataset_source", &self.dataset_source)?;
        check_not_blank("dataset_source", &self.dataset_source)?;
        let batch_id = self.batch_id.as_deref();
        batch_id.map_or(Ok(()), |batch| check_name("batch_id", batch))?;
        Ok(SharedNames {
            dataset: self.dataset_source.as_str().into(),
            batch: batch_id.map(|id| Batch::Named(id.into())),
            on_conflict: self.on_conflict,
        })
    }
}

/// The names that all chunks of a request share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedNames {
    /// See [`IngestOptions::dataset_source`].
    pub dataset: Arc<str>,
    /// See [`IngestOptions::batch_id`].
    pub batch: Option<Batch>,
    /// See [`IngestOptions::on_conflict`].
    pub on_conflict: OnConflict,
}

/// Explicit links of a chunk.
type WireLinks = Option<BoundedList<String, MAX_LINKS>>;

/// A chunk as an element of `chunks` or as an NDJSON line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireChunk {
    id: Option<String>,
    text: String,
    source_document: Option<String>,
    article_title: Option<String>,
    article_index: Option<i64>,
    #[serde(alias = "sequence_index")]
    chunk_index: Option<i64>,
    document_id: Option<String>,
    metadata: Option<SentMetadata>,
    parent_cpe_ids: WireLinks,
    child_cpe_ids: WireLinks,
    domain_code: Option<i64>,
    task_code: Option<i64>,
    modifier_code: Option<i64>,
    // Stored in the metadata.
    episode_id: Option<String>,
    // Old clients send their own vector. It is ignored: all vectors of a store come from one model.
    #[serde(rename = "concept_vec")]
    _concept_vec: Option<IgnoredAny>,
}

impl WireChunk {
    /// The text as it was sent. Answers to rejected chunks quote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Makes a [`Chunk`] with these names, which arrived at this time.
    ///
    /// # Errors
    /// Those of [`Chunk::new`].
    pub fn check(self, names: &SharedNames, received_at: DateTime<Utc>) -> Result<Chunk, Rejection> {
        let mut metadata = self.metadata.map(|SentMetadata(read)| read).transpose()?;
        if let Some(episode) = self.episode_id {
            let fields = metadata.map_or_else(|| Metadata::new(Map::new()), Ok)?;
            metadata = Some(fields.with("episode_id", Value::String(episode))?);
        }
        Chunk::new(Draft {
            id: self.id,
            dataset: names.dataset.clone(),
            batch: names.batch.clone(),
            text: self.text,
            placement: Placement {
                document_id: self.document_id,
                chunk_index: self.chunk_index.unwrap_or(0),
                source_document: Some(self.source_document.unwrap_or_else(|| "web_input".to_owned())),
                article_title: self.article_title,
                article_index: self.article_index,
                parent_cpe_ids: links("parent_cpe_ids", self.parent_cpe_ids)?,
                child_cpe_ids: links("child_cpe_ids", self.child_cpe_ids)?,
            },
            metadata,
            codes: [self.domain_code, self.task_code, self.modifier_code],
            on_conflict: names.on_conflict,
            received_at,
        })
    }
}

fn links(field: &'static str, sent: WireLinks) -> Result<Vec<String>, Rejection> {
    let Some(links) = sent else { return Ok(Vec::new()) };
    check_count(field, links.received)?;
    Ok(links.items)
}

/// Bytes that are not the expected JSON: the reason and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError {
    /// The error code for clients.
    pub code: ErrorCode,
    /// One sentence for the client.
    pub message: String,
    /// The path to the value, as `chunks[3].text`.
    pub path: Option<String>,
}

/// The deepest nesting of arrays and objects in a chunk, the chunk itself included.
pub const MAX_NESTING: usize = 32;
/// The longest message and path in bytes. Both quote what the client sent.
const MAX_QUOTE: usize = 300;

/// Reads a chunk, a query or another single object.
///
/// # Errors
/// The first problem, in this order: not UTF-8, nested too deep, not JSON, wrong fields or types.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ShapeError> {
    read_nested(bytes, MAX_NESTING)
}

/// Reads a request of many chunks. They may nest as deep as single ones: the request adds two levels.
///
/// # Errors
/// As [`read_json`].
pub fn read_request(bytes: &[u8]) -> Result<IngestRequest, ShapeError> {
    read_nested(bytes, MAX_NESTING + 2)
}

fn read_nested<T: DeserializeOwned>(bytes: &[u8], nesting: usize) -> Result<T, ShapeError> {
    let plain = |(code, message)| ShapeError { code, message, path: None };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        plain((ErrorCode::InvalidUtf8, format!("not UTF-8 at byte {}", error.valid_up_to())))
    })?;
    json_guard::check(text.as_bytes(), nesting).map_err(plain)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").map(short);
        let inner = error.into_inner();
        let message = message_of(&inner);
        ShapeError { code: code_of(&inner, &message), message: short(message), path }
    })?;
    json.end().map_err(|error| {
        plain((ErrorCode::InvalidJson, format!("something follows the JSON value: {}", message_of(&error))))
    })?;
    Ok(value)
}

/// The parser counts lines from the start of its input, which is always one line here. The line number in a stream is
/// reported elsewhere, so the message keeps the column only.
fn message_of(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} at column {column}"),
        None => message,
    }
}

/// Cuts a text that quotes the client to [`MAX_QUOTE`] bytes.
fn short(mut text: String) -> String {
    if text.len() > MAX_QUOTE {
        text.truncate(text.floor_char_boundary(MAX_QUOTE));
        text.push_str(" ...");
    }
    text
}

/// serde has one error type for all wrong shapes. Only the beginning of its message tells them apart; that part is
/// stable and never contains what the client sent.
fn code_of(error: &serde_json::Error, message: &str) -> ErrorCode {
    let begins = |word: &str| message.starts_with(word);
    match error.classify() {
        serde_json::error::Category::Data if begins("unknown field") => ErrorCode::UnknownField,
        serde_json::error::Category::Data if begins("missing field") => ErrorCode::MissingField,
        serde_json::error::Category::Data if begins("duplicate field") => ErrorCode::DuplicateKey,
        serde_json::error::Category::Data if begins(super::metadata::DUPLICATE) => ErrorCode::DuplicateKey,
        serde_json::error::Category::Data if begins(super::metadata::TOO_MANY) => ErrorCode::TooManyKeys,
        serde_json::error::Category::Data if begins(super::metadata::TOO_LARGE) => {
            ErrorCode::MetadataTooLarge
        }
        serde_json::error::Category::Data if begins("invalid value: integer") => ErrorCode::NumberOutOfRange,
        serde_json::error::Category::Data => ErrorCode::WrongType,
        _ if begins("number out of range") => ErrorCode::NumberOutOfRange,
        _ => ErrorCode::InvalidJson,
    }
}

impl From<ShapeError> for Rejection {
    fn from(error: ShapeError) -> Self {
        let message = match error.path {
            Some(path) => format!("{path}: {}", error.message),
            None => error.message,
        };
        Rejection::new(error.code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> SharedNames {
        SharedNames { dataset: "d".into(), batch: None, on_conflict: OnConflict::Error }
    }

    fn code(line: &[u8]) -> ErrorCode {
        read_json::<WireChunk>(line).unwrap_err().code
    }

    #[test]
    fn each_kind_of_bad_shape_has_its_code() {
        assert_eq!(code(b"{\"text\":\"a\xff\"}"), ErrorCode::InvalidUtf8);
        assert_eq!(code(b"hello"), ErrorCode::InvalidJson);
        assert_eq!(code(b"{\"text\":\"a\"} x"), ErrorCode::InvalidJson);
        assert_eq!(code(b"{\"text\":\"\\ud800\"}"), ErrorCode::InvalidJson);
        assert_eq!(code(b"{\"txt\":\"a\"}"), ErrorCode::UnknownField);
        assert_eq!(code(b"{}"), ErrorCode::MissingField);
        assert_eq!(code(b"{\"text\":5}"), ErrorCode::WrongType);
        assert_eq!(code(b"[1]"), ErrorCode::WrongType);
        assert_eq!(code(b"{\"text\":\"a\",\"task_code\":1e30}"), ErrorCode::WrongType);
        let nested = format!(r#"{{"text":"a","metadata":{{"k":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(code(nested.as_bytes()), ErrorCode::NestedTooDeep);
        assert_eq!(code(b"{\"text\":\"a\",\"metadata\":{\"k\":1e999}}"), ErrorCode::NumberOutOfRange);
        assert_eq!(
            code(b"{\"text\":\"a\",\"chunk_index\":9223372036854775808}"),
            ErrorCode::NumberOutOfRange
        );
        assert_eq!(code(b"{\"text\":\"a\",\"text\":\"b\"}"), ErrorCode::DuplicateKey);
        assert_eq!(code(b"{\"text\":\"a\",\"chunk_index\":1,\"sequence_index\":1}"), ErrorCode::DuplicateKey);
    }

    #[test]
    fn a_chunk_may_nest_as_deep_in_a_request_as_on_a_line_and_no_deeper() {
        // The chunk and its metadata are two levels.
        let chunk = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
            format!(r#"{{"text":"[[[[","metadata":{{"k":{open}{close}}}}}"#)
        };
        let request = |levels| format!(r#"{{"chunks":[{}]}}"#, chunk(levels));
        assert!(read_json::<WireChunk>(chunk(MAX_NESTING).as_bytes()).is_ok());
        assert_eq!(code(chunk(MAX_NESTING + 1).as_bytes()), ErrorCode::NestedTooDeep);
        assert!(read_request(request(MAX_NESTING).as_bytes()).is_ok());
        let error = read_request(request(MAX_NESTING + 1).as_bytes()).unwrap_err();
        assert_eq!(error.code, ErrorCode::NestedTooDeep);
    }

    #[test]
    fn a_message_quotes_only_the_beginning_of_what_was_sent() {
        for line in [
            format!(r#"{{"{}":1}}"#, "é".repeat(100_000)),
            format!(r#"{{"text":1,"id":"{}"}}"#, "é".repeat(100_000)),
            format!(r#"{{"text":"a","chunk_index":"{}"}}"#, "é".repeat(100_000)),
            format!(r#"{{"text":"a","metadata":{{"{}":1e999}}}}"#, "é".repeat(100_000)),
        ] {
            let rejection = Rejection::from(read_json::<WireChunk>(line.as_bytes()).unwrap_err());
            assert!(rejection.message.len() < 2 * MAX_QUOTE + 20, "{} bytes", rejection.message.len());
        }
    }

    #[test]
    fn lists_and_metadata_have_limits() {
        let rejected = |line: String| {
            read_json::<WireChunk>(line.as_bytes())
                .unwrap()
                .check(&names(), DateTime::UNIX_EPOCH)
                .unwrap_err()
        };
        let links =
            |count: usize| format!(r#"{{"text":"a","child_cpe_ids":[{}]}}"#, vec!["\"\""; count].join(","));
        let error = rejected(links(1_000_000));
        assert_eq!((error.code, error.param), (ErrorCode::TooManyLinks, Some("child_cpe_ids")));
        assert!(error.message.ends_with("received 1000000"), "{}", error.message);
        let long = format!(r#"{{"text":"a","metadata":{{"k":"{}"}}}}"#, "x".repeat(65_536));
        assert_eq!(rejected(long).code, ErrorCode::MetadataTooLarge);
        let zeros = format!(r#"{{"text":"a","metadata":{{"k":[{}]}}}}"#, vec!["0"; 100_000].join(","));
        assert_eq!(code(zeros.as_bytes()), ErrorCode::MetadataTooLarge);
        let chunks = vec![r#"{"text":""}"#; MAX_CHUNKS + 7].join(",");
        let request = read_request(format!(r#"{{"chunks":[{chunks}]}}"#).as_bytes()).unwrap();
        assert_eq!((request.chunks.items.len(), request.chunks.received), (MAX_CHUNKS, MAX_CHUNKS + 7));
    }

    #[test]
    fn names_that_all_chunks_share_are_checked_once() {
        let names = |dataset: &str, batch: &str| {
            let query = serde_json::json!({ "dataset_source": dataset, "batch_id": batch });
            let options: IngestOptions = serde_json::from_value(query).unwrap();
            options.names().map_err(|error| (error.code, error.param)).err()
        };
        assert_eq!(names("d", ""), None);
        assert_eq!(names("d", &"b".repeat(513)), Some((ErrorCode::InvalidName, Some("batch_id"))));
        assert_eq!(names(" ", "b"), Some((ErrorCode::InvalidName, Some("dataset_source"))));
        assert_eq!(names("d\0", "b"), Some((ErrorCode::NulCharacter, Some("dataset_source"))));
    }

    #[test]
    fn the_path_leads_to_the_value() {
        let error = read_json::<IngestRequest>(br#"{"chunks":[{"text":"a"},{"text":7}]}"#).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("chunks[1].text"));
    }

    #[test]
    fn names_of_real_clients_are_understood() {
        let line =
            br#"{"text":"a","sequence_index":7,"episode_id":"e","concept_vec":[1,2],"metadata":{"k":1}}"#;
        let chunk = read_json::<WireChunk>(line).unwrap().check(&names(), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(chunk.placement.chunk_index, 7);
        assert_eq!(chunk.metadata.unwrap().as_str(), r#"{"episode_id":"e","k":1}"#);
    }
}
