//! Files as people have them, read as chunks: one JSON object a line, in flat memory. Blocking; no runtime, no network.
//!
//! [`Input::inspect`] looks at the first bytes of a file and says what it is: compressed, in which encoding of
//! characters, in which of the [kinds](Kind) it holds chunks, and which of its columns is the text. [`Input::open`] then
//! reads it, from its beginning and as often as needed.

mod characters;
mod compression;
mod detect;
mod elements;
mod error;
mod folder;
mod input_file;
mod mapping;
mod ndjson;
mod objects;
mod parquet_rows;
mod parquet_values;
mod piece;
mod record;
mod table;
mod value_scan;

pub use compression::ReadCount;
pub use detect::Kind;
pub use error::InputError;
pub use folder::{FoundFile, find_files};
pub use input_file::{Input, InputOptions};
pub use mapping::Mapping;
pub use objects::{REJECTED_CHUNK, REJECTED_WHY};
pub use piece::{InputPiece, PieceReader, RefusedRow};
