//! The four ideas that carry the difficulty, so that the stages can be short and boring.
//!
//! [`Inlet`] is the only way into a stage: it waits for a slot. A [`Parcel`] is what travels: cargo, slot and
//! [`Receipt`]. A [`Batch`] is what gathered while a stage was busy. A [`Worker`] owns threads, each with
//! the one resource that has to stay on it. [`Home`] takes in parcels that were dropped on the way, and [`Hands`]
//! knows what a stage is at.
//! Generic: nothing here knows what a chunk is.

mod batch;
mod hands;
mod home;
mod inlet;
mod parcel;
mod receipt;
mod retry;
mod worker;

pub use batch::Batch;
pub use hands::{Hand, Hands, Oldest};
pub use home::{Home, Stray};
pub use inlet::{Inlet, Load, Slot, Slots};
pub use parcel::{Parcel, Trip};
pub use receipt::{Receipt, ReceiptBook, Results, Unsettled, receipt_book};
pub use retry::Backoff;
pub use worker::{Lane, Worker, WorkerError};
