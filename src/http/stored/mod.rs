//! What is stored, read and deleted by its name: one chunk, a document, a dataset, and lists of them.
//!
//! A read takes a permit of its own kind, with the bytes that its answer holds, until the connection has taken the last
//! piece of the answer.

mod chunk;
mod cursor;
mod deletions;
mod document;
mod fields;
mod lists;
mod names;

pub use chunk::chunk;
pub use deletions::{delete_chunk, delete_dataset, delete_document};
pub use document::document_chunks;
pub use lists::{datasets, documents};
