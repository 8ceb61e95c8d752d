//! Why a search failed.

use crate::index::IndexError;
use crate::store::StoreError;
use crate::threads::WorkerError;
use crate::vectorizer::VectorError;

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The query is invalid.
    #[error("{message}")]
    Invalid {
        /// The name of the invalid field.
        param: &'static str,
        /// What the field must be, and what it is.
        message: String,
    },
    /// The index does not yet reflect `min_seq`.
    #[error("the index reflects change {reached}, not yet {wanted}; ask again")]
    Behind {
        /// The requested clock value.
        wanted: i64,
        /// The clock value that the index reflects.
        reached: i64,
    },
    /// The text could not be embedded.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// The classifier's thread failed.
    #[error("the classifier could not answer: {0}")]
    Classifier(#[from] WorkerError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
