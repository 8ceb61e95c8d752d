//! The limits for clients: uploads at once, memory for bodies, and time.

pub mod admission;
pub mod availability;
mod rate;
pub mod timeouts;

pub use admission::{Admission, AdmissionRequest, Limits, Permit, Refusal};
pub use timeouts::BodyTimeouts;
