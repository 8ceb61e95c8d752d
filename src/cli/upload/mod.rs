//! Sends a source of chunks to a service, each until its answer is known, and not after.
//!
//! [`Upload`] is the way of one source: rounds of the lines that are left ([`attempt`]), pauses between them
//! ([`retry_policy`]), what is settled ([`ledger`]) and why lines were refused ([`refusals`]). What is settled is
//! known in memory only: a command that is killed is run again, and chunks that are stored are answered `duplicate`.

mod answer;
mod attempt;
mod error;
mod ledger;
mod progress_line;
mod recent_rate;
mod refusals;
mod retry_policy;
mod rounds;
mod sent_lines;
mod service_state;
mod source;
mod state;

pub use answer::UploadFailure;
pub use attempt::Target;
pub use error::UploadError;
pub use ledger::UploadTally;
pub use refusals::{RefusalSink, RefusalTable, RefusedChunk};
pub use retry_policy::{RetryLimits, RetrySpan};
pub use rounds::{Upload, UploadOptions, UploadReport};
pub use source::{LocalRefusal, PieceStream, UploadPiece, UploadSource};
