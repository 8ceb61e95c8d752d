//! The four ideas that carry the difficulty, so that the stages can be short and boring.
//!
//! [`Inlet`] is the only way into a stage: it waits for a slot. A [`Parcel`] is what travels: cargo, slot and
//! [`Receipt`]. A [`Batch`] is what gathered while a stage was busy. A [`Worker`] owns threads, each with
//! the one resource that has to stay on it. [`RedeliveryQueue`] takes in parcels that were dropped on the way, and [`TaskRegistry`]
//! knows what a stage is at.
//! Generic: nothing here knows what a chunk is.

mod batch;
mod inlet;
mod parcel;
mod receipt;
mod redelivery;
mod retry;
mod tasks;

pub use batch::Batch;
pub use inlet::{Capacity, Inlet, Slot, Slots};
pub use parcel::{Delivery, Parcel};
pub use receipt::{Receipt, ReceiptIssuer, ReceiptStream, Unsettled, receipt_channel};
pub use redelivery::{Redelivery, RedeliveryQueue};
pub use retry::Backoff;
pub use tasks::{Oldest, TaskGuard, TaskRegistry};
