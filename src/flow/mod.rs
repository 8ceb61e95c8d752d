//! What makes the stages short: bounded ways in, parcels that are not lost, batches, retries. Nothing here knows what a
//! chunk is.
//!
//! An [`Inlet`] is the only way into a stage: it waits for one of its [`Slots`]. A [`Parcel`] travels: cargo, slot and
//! [`Delivery`], which holds the [`Receipt`]. A dropped delivery goes to the [`RedeliveryQueue`]. A [`Batch`] gathers
//! while a stage is busy. A [`TaskRegistry`] knows the tasks of a stage. [`retry`] and [`bisect`] are the two ways to
//! go on after an error.

mod batch;
mod delivery;
mod inlet;
mod parcel;
mod receipt;
mod retry;
mod slots;
mod tasks;

pub use batch::Batch;
pub use delivery::{Delivery, RedeliveryQueue};
pub use inlet::Inlet;
pub use parcel::Parcel;
pub use receipt::{Receipt, ReceiptIssuer, ReceiptStream, Unsettled, receipt_channel};
pub use retry::{Backoff, Retries, Verdict, bisect, retry};
pub use slots::{Capacity, Full, Slot, SlotEvent, Slots};
pub use tasks::{OldestTask, TaskGuard, TaskRegistry};
