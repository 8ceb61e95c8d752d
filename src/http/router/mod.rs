//! The API of the old TMD router: `POST /route`, `/route/batch`, `/extract-tmd`, `/select-lane`. Codes come from the
//! same sources, in the same order, as those of ingested chunks.

mod answer;
mod handlers;
mod request;

pub use handlers::{extract, route, route_batch, select_lane};
