//! A JSON request of many chunks. Its chunks are not parsed as one document: each is read like a line, alone, so that a
//! wrong one does not take the others with it, and that all of them are never in memory as parsed trees.

use super::json_guard;
use super::options::OptionFields;
use super::shape::{MAX_NESTING, ShapeError, read_json, read_value};
use super::slices::{Broken, Splitter};
use super::words::quoted;
use crate::error_code::ErrorCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeSet;

/// The most chunks in a JSON body.
pub const MAX_CHUNKS: usize = 10_000;

/// `POST /ingest` as `application/json`.
#[derive(Debug)]
pub struct IngestRequest<'a> {
    /// The JSON of each chunk, at most [`MAX_CHUNKS`]; the answer has one result for each, in this order.
    pub chunks: Vec<&'a [u8]>,
    /// The number of chunks that were sent.
    pub received: usize,
    /// The options among its fields.
    pub options: OptionFields,
}

/// Reads everything of a request but the chunks themselves.
///
/// # Errors
/// The body is not JSON, not an object, has no `chunks`, or has a field that is wrong or not known.
pub fn read_request(body: &[u8]) -> Result<IngestRequest<'_>, ShapeError> {
    let Some(mut members) = Splitter::of(body, b'{') else { return Err(not_an_object(body)) };
    let mut request = IngestRequest { chunks: Vec::new(), received: 0, options: OptionFields::default() };
    let mut seen = BTreeSet::new();
    while let Some(member) = members.member() {
        let (key, value) = member.map_err(|Broken| broken(body))?;
        let name: String = read_value(key)?;
        let path = quoted(&name);
        let read = match name.as_str() {
            "chunks" if value == b"null" => Ok(()),
            "chunks" => request.split_chunks(value, body),
            _ => request.options.read(&name, value),
        };
        read.map_err(|error| error.within(&path))?;
        if !seen.insert(name) {
            let message = format!("duplicate field `{path}`");
            return Err(ShapeError::plain(ErrorCode::DuplicateKey, message).within(&path));
        }
    }
    match members.rest() {
        [] => {}
        [b'{', ..] => {
            let message = "another JSON object follows the first: send chunks one a line as application/x-ndjson, or all of them \
                           in `chunks` of one object";
            return Err(ShapeError::plain(ErrorCode::InvalidJson, message));
        }
        _ => {
            let message = "something follows the JSON value";
            return Err(ShapeError::plain(ErrorCode::InvalidJson, message));
        }
    }
    if request.received == 0 {
        let message = "expected at least one chunk, received none";
        return Err(ShapeError::plain(ErrorCode::MissingField, message).within("chunks"));
    }
    Ok(request)
}

impl<'a> IngestRequest<'a> {
    fn split_chunks(&mut self, json: &'a [u8], body: &[u8]) -> Result<(), ShapeError> {
        let Some(mut elements) = Splitter::of(json, b'[') else {
            // It is no array, so this is the error that says what it is.
            return Err(read_value::<Vec<IgnoredAny>>(json).err().unwrap_or_else(|| broken(body)));
        };
        while let Some(element) = elements.element() {
            let chunk = element.map_err(|Broken| broken(body))?;
            if self.chunks.len() < MAX_CHUNKS {
                self.chunks.push(chunk);
            }
            self.received += 1;
        }
        Ok(())
    }
}

/// A request without fields.
#[derive(Debug, Deserialize)]
struct NoFields {}

fn not_an_object(body: &[u8]) -> ShapeError {
    let mut error = read_json::<NoFields>(body).err().unwrap_or_else(|| broken(body));
    if error.code == ErrorCode::WrongType && Splitter::of(body, b'[').is_some() {
        error.message.push_str("; put the chunks into its field `chunks`: {\"chunks\": [..]}");
    }
    error
}

/// What the parser says about bytes whose structure is not that of JSON.
fn broken(json: &[u8]) -> ShapeError {
    // The parser takes memory for each level.
    if let Err((code, message)) = json_guard::check(json, MAX_NESTING + 2) {
        return ShapeError::plain(code, message);
    }
    let error = serde_json::from_slice::<IgnoredAny>(json).err();
    let place = error.as_ref().map(|error| (error.line(), error.column()));
    let (line, column) = place.unwrap_or_default();
    let words = error.map_or_else(|| "expected JSON".to_owned(), |error| error.to_string());
    let words = super::words::plain(words.rsplit_once(" at line ").map_or(words.as_str(), |(what, _)| what));
    ShapeError::plain(ErrorCode::InvalidJson, format!("{words} at line {line} column {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fields::WireChunk;

    fn code(body: &str) -> (ErrorCode, Option<String>) {
        let error = read_request(body.as_bytes()).unwrap_err();
        (error.code, error.path)
    }

    #[test]
    fn each_chunk_is_read_alone() {
        let deep = format!("{{\"text\":\"a\",\"metadata\":{{\"k\":{}{}}}}}", "[".repeat(40), "]".repeat(40));
        let body = format!(
            r#"{{"dataset_source":"d","chunks":[{{"text":"a"}},{{"text":"cut \ud83d"}},[1],7,{deep},{{"text":1}},{{"text":"z"}}]}}"#
        );
        let request = read_request(body.as_bytes()).unwrap();
        assert_eq!((request.chunks.len(), request.received), (7, 7));
        let good: Vec<bool> = request.chunks.iter().map(|chunk| WireChunk::read(chunk).is_ok()).collect();
        assert_eq!(good, [true, false, false, false, false, false, true]);
        assert_eq!(request.options.complete(crate::chunk::LabelChoice::All).dataset_source, "d");
    }

    #[test]
    fn a_long_list_is_counted_to_its_end() {
        let chunks = vec!["{}"; MAX_CHUNKS + 7].join(",");
        let body = format!(r#"{{"chunks":[{chunks}]}}"#);
        let request = read_request(body.as_bytes()).unwrap();
        assert_eq!((request.chunks.len(), request.received), (MAX_CHUNKS, MAX_CHUNKS + 7));
    }

    #[test]
    fn what_is_wrong_with_the_request_itself_has_a_place() {
        let at = |path: &str| Some(path.to_owned());
        for (body, expected) in [
            ("", (ErrorCode::InvalidJson, None)),
            ("this is no JSON", (ErrorCode::InvalidJson, None)),
            ("[{\"text\":\"a\"}]", (ErrorCode::WrongType, None)),
            ("7", (ErrorCode::WrongType, None)),
            ("{}", (ErrorCode::MissingField, at("chunks"))),
            (r#"{"chunks":null}"#, (ErrorCode::MissingField, at("chunks"))),
            (r#"{"chunks":[]}"#, (ErrorCode::MissingField, at("chunks"))),
            (r#"{"chunks":"x"}"#, (ErrorCode::WrongType, at("chunks"))),
            (r#"{"chunks":{"text":"a"}}"#, (ErrorCode::WrongType, at("chunks"))),
            (r#"{"chunks":[{"text":"a"}],"mode":1}"#, (ErrorCode::UnknownField, at("mode"))),
            (r#"{"chunks":[{}],"chunks":[{}]}"#, (ErrorCode::DuplicateKey, at("chunks"))),
            (r#"{"chunks":[{}],"dataset_source":[1]}"#, (ErrorCode::WrongType, at("dataset_source"))),
            (r#"{"chunks":[{}],"skip_cpesh":"perhaps"}"#, (ErrorCode::WrongType, at("skip_cpesh"))),
            (r#"{"chunks":[{}],"unknown_fields":"x"}"#, (ErrorCode::InvalidQuery, at("unknown_fields"))),
            (r#"{"chunks":[{} {}]}"#, (ErrorCode::InvalidJson, at("chunks"))),
            (r#"{"chunks":[{}]"#, (ErrorCode::InvalidJson, None)),
            (r#"{"chunks":[{}]} x"#, (ErrorCode::InvalidJson, None)),
            (&format!(r#"{{"chunks":{}"#, "[".repeat(1000)), (ErrorCode::NestedTooDeep, None)),
            (r#"{"text":"a"}"#, (ErrorCode::UnknownField, at("text"))),
        ] {
            assert_eq!(code(body), expected, "{body}");
        }
        let message = |body: &str| read_request(body.as_bytes()).unwrap_err().message;
        assert!(
            message("[{\"text\":\"a\"}]")
                .contains("received an array; put the chunks into its field `chunks`")
        );
        assert!(message("{\"chunks\":[{}]}\n{\"chunks\":[{}]}").contains("application/x-ndjson"));
    }
}
