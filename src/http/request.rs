//! What all routes with a body share: what the head says, and how a JSON body is read and parsed.

use crate::chunk::{MAX_TEXT_BYTES, is_blank};
use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard, UploadAbort};
use crate::http::error::{ApiError, no_answer};
use crate::http::limits::{BodySlots, Permit};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::metrics;
use crate::rejection::Rejection;
use crate::wire::{ContentEncoding, ShapeError, WrongFormat, document, read_json};
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::web;
use serde::de::DeserializeOwned;

/// The longest JSON body, inflated.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Larger bodies are parsed, and larger answers written, on a blocking thread: the other clients of the HTTP worker
/// would wait for them.
const LARGE: usize = 64 * 1024;

/// The kind of a body, by its `Content-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Ndjson,
}

/// The kind of the body.
///
/// # Errors
/// 415 for a content type that is neither JSON nor NDJSON.
pub fn body_kind(headers: &HeaderMap) -> Result<BodyKind, ApiError> {
    let kind = header_text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(BodyKind::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(BodyKind::Ndjson),
        other => {
            let message =
                format!("expected Content-Type application/json or application/x-ndjson, received '{other}'");
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
        }
    }
}

/// The `Content-Length`, if the head has one.
pub fn content_length(headers: &HeaderMap) -> Option<usize> {
    header_text(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok())
}

/// A header as text; a header that is not text counts as absent.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The `Content-Encoding` of the body.
///
/// # Errors
/// 415 for an encoding that is not supported.
pub fn content_encoding(headers: &HeaderMap) -> Result<ContentEncoding, ApiError> {
    let mut named = String::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        named.push_str(value.to_str().unwrap_or("unreadable"));
        named.push(',');
    }
    ContentEncoding::from_header(&named).ok_or_else(|| {
        let named = named.trim_end_matches(',');
        let message =
            format!("Content-Encoding {named} is not supported; send the body as gzip, as zstd, or as it is");
        ApiError::new(ErrorCode::UnsupportedEncoding, message)
    })
}

/// The length of a JSON body of at most `most` bytes, as far as the client announces it.
///
/// # Errors
/// 413 for a body that is too long; `instead` says what to send instead.
pub fn announced_bytes(headers: &HeaderMap, most: usize, instead: &str) -> Result<usize, ApiError> {
    let length = content_length(headers).unwrap_or(0);
    if length > most {
        let message = format!("expected a JSON body of at most {most} bytes, received {length}");
        return Err(too_large(&message, instead));
    }
    Ok(length)
}

/// The body of a request that must be one JSON document of at most `most` bytes, not read yet, and the length that the
/// client announces. Checks everything that is known before the first byte of it.
///
/// # Errors
/// 415 for another content type, or an encoding that is not supported; 413 for a body that is too long, where `instead`
/// says what to send instead.
pub fn json_body(
    headers: &HeaderMap,
    guard: RequestBodyGuard,
    settings: &Settings,
    most: usize,
    instead: &str,
) -> Result<(Body, usize), ApiError> {
    let (BodyKind::Json, encoding) = (body_kind(headers)?, content_encoding(headers)?) else {
        let message = "expected Content-Type application/json";
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message));
    };
    let announced = announced_bytes(headers, most, instead)?;
    Ok((Body::new(encoding, guard, settings.body)?, announced))
}

/// Reads a JSON body of at most `most` bytes, inflated, to its end. Its bytes are counted in the permit as they arrive.
///
/// # Errors
/// The abort of the upload; 413 for a body that is too long, where `instead` says what to send instead; 429 when the
/// memory for bodies is full, or is needed by others while the client is slow; 503 when the service goes down meanwhile.
pub async fn read_body(
    mut body: Body,
    state: &State,
    (slots, permit): (&BodySlots, &mut Permit),
    most: usize,
    instead: &str,
) -> Result<Vec<u8>, ApiError> {
    let closed = state.pipeline.entrance().closed();
    let count = |abort: &UploadAbort| metrics::upload_cut(abort.code().as_str());
    let reading = slots.read_body();
    let mut whole = Vec::new();
    loop {
        let piece = tokio::select! {
            biased;
            () = closed.cancelled() => return Err(state.draining()),
            piece = reading.wait(body.next(|| false)) => {
                piece.ok_or_else(|| cut(state))?.inspect_err(count)?
            }
        };
        let Some(piece) = piece else { return Ok(whole) };
        if whole.len() + piece.len() > most {
            let message = format!("expected a JSON body of at most {most} bytes, inflated, received more");
            return Err(too_large(&message, instead));
        }
        grow(&mut whole, piece.len(), most);
        whole.extend_from_slice(piece);
        let resized = slots.resize(permit, whole.capacity(), reading.waited()).await;
        resized.map_err(|_| state.no_room())?;
    }
}

/// Makes room for more bytes: twice as much as before, so that the bytes are copied rarely, but not beyond the longest
/// body.
fn grow(whole: &mut Vec<u8>, more: usize, most: usize) {
    let needed = whole.len() + more;
    if needed > whole.capacity() {
        let room = (2 * whole.capacity()).clamp(needed, most.max(needed));
        whole.reserve_exact(room - whole.len());
    }
}

/// The answer to a client that was cut because it was slow and others needed its place.
fn cut(state: &State) -> ApiError {
    let retry_after = state.retry_after();
    let message = format!(
        "the client sent slowly while others needed its place; nothing was taken, send it again in {retry_after} s"
    );
    metrics::upload_cut(ErrorCode::Overloaded.as_str());
    ApiError::new(ErrorCode::Overloaded, message).retry_after(retry_after)
}

/// Whether a body belongs on a blocking thread; see [`run_blocking`].
pub fn is_large(body: &[u8]) -> bool {
    body.len() > LARGE
}

/// Runs work on a large body on a blocking thread, and other work here.
///
/// # Errors
/// 500 when the work panicked.
pub async fn run_blocking<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if is_large { web::block(work).await.map_err(|_| no_answer()) } else { Ok(work()) }
}

/// 413; `instead` says what to send instead.
pub fn too_large(message: &str, instead: &str) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("{message}; {instead}"))
}

/// Reads the object in a JSON body.
///
/// # Errors
/// 422 that says what is wrong, and where.
pub fn read_document<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let json = document(body).map_err(wrong_format)?;
    read_json(json).map_err(shape_error)
}

/// Checks a text that a request gives in `param`.
///
/// # Errors
/// 422 for a text that is too long or has no visible character.
pub fn check_text(param: &str, text: &str) -> Result<(), ApiError> {
    let (code, message) = if text.len() > MAX_TEXT_BYTES {
        let message = format!("{param}: expected at most {MAX_TEXT_BYTES} bytes, received {}", text.len());
        (ErrorCode::TextTooLong, message)
    } else if is_blank(text) {
        (ErrorCode::TextEmpty, format!("{param} is empty or has only invisible characters"))
    } else {
        return Ok(());
    };
    Err(ApiError::new(code, message).param(param))
}

/// The error of a body that is something else than JSON in UTF-8.
pub fn wrong_format(wrong: WrongFormat) -> ApiError {
    ApiError::new(ErrorCode::WrongFormat, wrong.to_string())
}

/// The error of a body that has a wrong shape.
pub fn shape_error(error: ShapeError) -> ApiError {
    let path = error.path.clone();
    let answer = rejection_error(Rejection::from(error));
    match path {
        Some(path) => answer.param(path),
        None => answer,
    }
}

/// The error of a request whose chunks would all be rejected for this reason.
pub fn rejection_error(rejection: Rejection) -> ApiError {
    let error = ApiError::new(rejection.code, rejection.message);
    match rejection.param {
        Some(param) => error.param(param),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_no_more_room_than_the_longest_one() {
        let (most, mut whole) = (100_000, Vec::new());
        let mut grown = 0;
        for _ in 0..1000 {
            let before = whole.capacity();
            grow(&mut whole, 100, most);
            grown += usize::from(whole.capacity() > before);
            whole.extend_from_slice(&[0; 100]);
        }
        assert!(whole.len() == most && whole.capacity() == most, "{}", whole.capacity());
        assert!(grown < 20, "it was copied {grown} times");
    }
}
