//! The formats of requests, read without a server: compressed bytes, lines, JSON with bounds, and the objects that
//! clients send. Pure: no I/O, no runtime.

mod bounded;
mod dto;
mod encoding;
mod json_guard;
mod lines;
mod metadata;

pub use bounded::BoundedList;
pub use dto::{
    IngestOptions, IngestRequest, MAX_CHUNKS, ShapeError, SharedNames, WireChunk, read_json, read_request,
};
pub use encoding::{ContentEncoding, Inflate, InflateError};
pub use lines::{LineDecoder, LineError, MAX_LINE_BYTES};
