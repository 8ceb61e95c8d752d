//! Backfills: stored chunks get what they lack, or something better. A [`Retagger`] gives them codes of the language
//! model, without a new vector; an [`Extractor`] CPESH parts, and vectors of their concepts and questions.
//!
//! Rows are taken in the order of their last change, a page at a time ([`pass`]). Each change takes a number of the clock,
//! so a row that was changed lies beyond the range, and work that was interrupted goes on where it ended. A row that was
//! changed by others since it was read keeps what it has.

mod extract;
mod pass;
mod retag;
mod stored_rows;

pub use extract::Extractor;
pub use pass::Backfilled;
pub use retag::Retagger;
