//! lnsp-ingest: text chunks in over HTTP; classified, embedded, durable and searchable when acknowledged.

pub mod chunk;
pub mod encoder;
pub mod index;
pub mod outcome;
pub mod store;
pub mod tmd;
