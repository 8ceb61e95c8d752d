//! The formats of requests, read without a server: compressed bytes, lines, JSON with bounds, and chunks as they are
//! sent. Pure: no I/O, no runtime.

pub mod dto;
mod encoding;
mod json_guard;
mod lines;
mod metadata;

pub use dto::{IngestRequest, ShapeError, WireChunk, read as read_chunk, read_request};
pub use encoding::{Encoding, Inflate, InflateError};
pub use lines::{LineError, Lines, MAX_LINE_BYTES};
