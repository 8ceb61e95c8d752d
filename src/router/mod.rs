//! The lanes of the old TMD router: which specialist model takes the concepts of a domain, and whether its server is
//! there. This service gives codes itself and calls no specialist; a lane is advice to the client.

mod lane;
mod lane_servers;

pub use lane::{FALLBACK, SpecialistLane};
pub use lane_servers::{ChosenLane, LaneServers};
