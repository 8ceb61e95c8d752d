//! The HTTP face: ingest (JSON and NDJSON), search, vectors for others, and the state of the service.
//!
//! Knows the entrance, the search, the vectorizer, receipts and chunks; not the stages behind them. Every error goes
//! through the one table in [`error`].

mod body;
mod dead_letters;
mod drain;
mod embed;
mod error;
mod ingest;
mod limits;
mod ops;
mod request_id;
mod search;
mod server;
mod state;

pub use body::UploadAbort;
pub use drain::drain;
pub use error::ApiError;
pub use ingest::{CacheLimits, IdempotencyCache};
pub use limits::{Admission, BodyTimeouts, Limits, Refusal};
pub use server::serve;
pub use state::{Counts, MeasuredDevice, ServiceInfo, Settings, State, Tally};
