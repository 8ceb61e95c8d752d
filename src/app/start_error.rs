//! Why the service did not start.

use crate::classifier::ArtefactError;
use crate::encoder::EncodeError;
use crate::index::IndexError;
use crate::llm::LlmError;
use crate::router::RouterError;
use crate::store::StoreError;
use crate::store::managed::ManagedError;
use crate::threads::WorkerError;
use crate::vectorizer::VectorError;

/// The reason why the service did not start. Each message is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("the data folder {folder} cannot be used: {error}; choose another with LNSP_DATA_DIR")]
    DataFolder {
        /// The configured folder.
        folder: String,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The managed PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] ManagedError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The classifier in the binary is invalid.
    #[error(transparent)]
    Classifier(#[from] ArtefactError),
    /// A worker thread ended at its start.
    #[error("a worker thread did not answer: {0}; this is a bug")]
    Worker(WorkerError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] EncodeError),
    /// The embedding server failed.
    #[error("{0}")]
    Vectors(VectorError),
    /// The folder of an index cannot be used.
    #[error("the folder {} cannot be used: {error}; remove it, and it is made anew from the database", folder.display())]
    IndexFolder {
        /// The folder of the index.
        folder: std::path::PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The client of the language model cannot be made.
    #[error("the language model {0}")]
    Llm(LlmError),
    /// The client of the TMD routers cannot be made.
    #[error("the TMD router {0}")]
    Router(RouterError),
    /// The client of the servers of the lanes cannot be made.
    #[error("the HTTP client for the lanes of /route cannot be made: {0}; this is a bug")]
    Lanes(String),
}
