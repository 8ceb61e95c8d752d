//! The limits for clients: uploads at once, memory for bodies, and time.

pub mod admission;
pub mod availability;
mod body_slots;
mod rate;
mod reading;
pub mod timeouts;

pub use admission::{Admission, AdmissionRequest, Limits, Permit, Refusal};
pub use body_slots::BodySlots;
pub use timeouts::BodyTimeouts;
