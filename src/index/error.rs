//! What can go wrong with the index. Each variant says what happened and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the index could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Two processes must never share one index folder.
    #[error("the index folder {} is in use by another process; stop it, or choose another data directory", .0.display())]
    Locked(PathBuf),
    /// The folder cannot be read or written.
    #[error("cannot use the index file {}: {source}; check the disk's free space and the permissions", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The memory map has a fixed ceiling, and the index has reached it.
    #[error(
        "the index has reached its ceiling of {map_size} bytes; raise the index map size and start again"
    )]
    Full {
        /// The configured ceiling.
        map_size: usize,
    },
    /// LMDB or arroy refused. When it lasts, the index rebuilds itself.
    #[error("the index storage failed: {0}; if it goes on, rebuild the index from the database")]
    Storage(#[source] arroy::Error),
    /// The files do not hold what this version wrote.
    #[error("the index is damaged: {0}; rebuild it from the database")]
    Damaged(String),
    /// The committed rows cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query was made by another model.
    #[error(
        "the query vector has {received} dimensions, the index has {expected}; use the model of this store"
    )]
    WrongDims {
        /// What the index holds.
        expected: usize,
        /// What came.
        received: usize,
    },
    /// A vector with NaN, infinity, or nothing but zeros has no direction.
    #[error("the query vector is not usable: it is zero or not finite; embed the text again")]
    UnusableQuery,
    /// A build that someone waited for failed. It is tried again by itself.
    #[error("building the index failed: {0}")]
    BuildFailed(String),
    /// A panic in the index's own work. The next attempt starts clean.
    #[error("the index work panicked: {0}; the log has the place")]
    Panicked(String),
    /// The index is going down.
    #[error("the index is closed; ask again when the service is up")]
    Closed,
}

/// The truth (the committed rows) could not be read. Made by whoever implements [`super::ChangeSource`].
#[derive(Debug, thiserror::Error)]
#[error("cannot read the committed rows: {0}; check that the database is up")]
pub struct SourceError(Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Wraps the store's own error, or a sentence.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        SourceError(error.into())
    }
}

impl IndexError {
    pub(super) fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        IndexError::Io { path: path.as_ref().to_owned(), source }
    }

    /// LMDB's errors arrive bare or inside arroy's; the full map is the one with its own cure.
    pub(super) fn storage(error: impl Into<arroy::Error>, map_size: usize) -> Self {
        match error.into() {
            arroy::Error::Heed(heed::Error::Mdb(heed::MdbError::MapFull)) => IndexError::Full { map_size },
            other => IndexError::Storage(other),
        }
    }

    /// Trying again with the same files cannot help: only a rebuild does.
    pub(super) fn is_damage(&self) -> bool {
        use heed::MdbError;
        match self {
            IndexError::Damaged(_) | IndexError::Panicked(_) => true,
            IndexError::Storage(arroy::Error::Heed(error)) => match error {
                heed::Error::Decoding(_) => true,
                heed::Error::Mdb(error) => matches!(
                    error,
                    MdbError::PageNotFound
                        | MdbError::Corrupted
                        | MdbError::Panic
                        | MdbError::Invalid
                        | MdbError::VersionMismatch
                        | MdbError::CursorFull
                        | MdbError::PageFull
                        | MdbError::BadTxn
                ),
                _ => false,
            },
            IndexError::Storage(error) => {
                !matches!(error, arroy::Error::Io(_) | arroy::Error::BuildCancelled)
            }
            _ => false,
        }
    }
}
