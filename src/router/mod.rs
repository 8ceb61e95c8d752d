//! The old TMD router: its lanes, and routers as a source of codes.
//!
//! A lane is the specialist model that takes the concepts of a domain; this service calls none, so a lane is advice to the
//! client. [`TmdRouter`] asks other routers for codes, each answer checked like that of a language model.

mod client;
mod error;
mod lane;
mod lane_servers;
mod tmd_router;

pub use client::RouterSettings;
pub use error::RouterError;
pub use lane::{FALLBACK, SpecialistLane};
pub use lane_servers::{ChosenLane, LaneServers};
pub use tmd_router::{RoutedCodes, TmdRouter};
