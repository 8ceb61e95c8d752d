//! The HTTP server: ingest (JSON and NDJSON), search, vectors for other services, and the state of the service.
//!
//! [`routes`] is the table of routes. The handlers know the entrance, the search, the vectorizer, receipts and chunks,
//! but not the stages behind them.

mod body;
mod chunks;
mod connection;
mod cpesh;
mod dead_letters;
mod drain;
mod embed;
mod error;
mod export;
mod framework;
mod held;
mod info;
mod ingest;
mod limits;
mod model_switch;
mod ops;
mod origin;
mod parameters;
mod path;
mod pieces;
mod request;
mod request_id;
mod retag;
mod router;
mod routes;
mod search;
mod server;
mod servers;
mod settings;
mod state;
mod stored;
mod verify;

pub use body::UploadAbort;
pub use drain::{drain, drain_connections};
pub use error::ApiError;
pub use framework::is_logged;
pub use held::HeldCache;
pub use info::{MeasuredDevice, ServiceInfo};
pub use ingest::{ArrivalClock, CacheLimits, DocumentTurns, IdempotencyCache};
pub use limits::{Admission, BodyTimeouts, Limits, Refusal};
pub use model_switch::ModelSwitch;
pub use routes::{ROUTES, Route, allowed};
pub use search::{MAX_ANSWER_BYTES, MAX_QUERY_BYTES};
pub use server::serve;
pub use settings::Settings;
pub use state::{Counts, State, Tally};
