//! Files as people have them, read as chunks: one JSON object a line, in flat memory. Blocking; no runtime, no network.

mod compression;
mod ndjson;
mod piece;

pub use compression::{Compression, Inflated, ReadCount};
pub use ndjson::NdjsonLines;
pub use piece::{InputPiece, PieceReader, PieceWriter, RefusedRow};
