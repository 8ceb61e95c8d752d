//! The formats of requests, read without a server: compressed bytes, lines, JSON with bounds, and the objects that
//! clients send. Pure: no I/O, no runtime.

mod body_start;
mod bounded;
mod cpesh;
mod encoding;
mod fields;
mod json_guard;
mod lines;
mod metadata;
mod one_or_many;
mod options;
mod request;
mod restored;
mod shape;
mod slices;
mod unknown;
mod values;
mod words;

pub use body_start::{BodyStart, WrongFormat, document};
pub use bounded::BoundedList;
pub use encoding::{ContentEncoding, Inflate, InflateError};
pub use fields::{CHUNK_FIELDS, WireChunk};
pub use lines::{LineDecoder, LineError, MAX_LINE_BYTES};
pub use one_or_many::OneOrMany;
pub use options::{IngestOptions, OptionFields, SharedNames};
pub use request::{IngestRequest, MAX_CHUNKS, read_request};
pub use shape::{Fields, ShapeError, read_json};
pub use slices::{Broken, NextPart, Splitter};
pub use unknown::{OTHER_NAMES, UnknownFieldCounts, UnknownFieldPolicy};
pub use values::{AnyNumber, Name, Truth, WholeNumber, one_of};
pub use words::{ValueProblem, problem};
