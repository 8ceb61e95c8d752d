//! What a client may take: uploads at once, memory for bodies, and time.

pub(super) mod admission;
pub(super) mod availability;
mod rate;
pub(super) mod timeouts;

pub use admission::{Admission, Limits, Refusal};
pub use timeouts::BodyTimeouts;
