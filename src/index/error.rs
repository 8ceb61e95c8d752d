//! The errors of the index. Each message says what happened and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a call to the index failed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Two processes must never share one index folder.
    #[error(
        "the index folder {} is in use by another process; stop it, or choose another data directory",
        .0.display()
    )]
    Locked(PathBuf),
    /// The folder cannot be read or written.
    #[error("cannot use the index file {}: {source}; check the disk's free space and the permissions", path.display())]
    Io {
        /// The path of the file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The index has reached the fixed size of its memory map.
    #[error(
        "the index has reached its limit of {map_size} bytes; raise the index map size (LNSP_INDEX_MAP_GB) and start again"
    )]
    Full {
        /// The configured limit in bytes.
        map_size: usize,
    },
    /// An error of LMDB or arroy. When it persists, the index rebuilds itself.
    #[error("the index storage failed: {0}; if it goes on, rebuild the index from the database")]
    Storage(#[source] arroy::Error),
    /// The files are damaged, or not in the format of this version.
    #[error("the index is damaged: {0}; rebuild it from the database")]
    Damaged(String),
    /// The committed rows cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query vector has another number of dimensions than the model of the store.
    #[error(
        "the query vector has {received} dimensions, the index has {expected}; use the model of this store"
    )]
    WrongDims {
        /// The dimensions of the index.
        expected: usize,
        /// The dimensions of the query.
        received: usize,
    },
    /// A vector with NaN, infinity, or nothing but zeros has no direction.
    #[error("the query vector is not usable: it is zero or not finite; embed the text again")]
    UnusableQuery,
    /// A build that a caller waited for failed. It is retried.
    #[error("building the index failed: {0}")]
    BuildFailed(String),
    /// A panic in a build or a search. It leaves no half-written state.
    #[error("the index work panicked: {0}; the log has the place")]
    Panicked(String),
    /// The index is closed or closing.
    #[error("the index is closed; ask again when the service is up")]
    Closed,
}

/// The committed rows could not be read. Returned by the implementation of [`super::ChangeSource`].
#[derive(Debug, thiserror::Error)]
#[error("cannot read the committed rows: {0}; check that the database is up")]
pub struct SourceError(Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Wraps the error of the store, or a message.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        SourceError(error.into())
    }
}

impl IndexError {
    pub(super) fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        IndexError::Io { path: path.as_ref().to_owned(), source }
    }

    /// Converts an error of LMDB, bare or inside arroy's; a full map has a variant of its own.
    pub(super) fn storage(error: impl Into<arroy::Error>, map_size: usize) -> Self {
        match error.into() {
            arroy::Error::Heed(heed::Error::Mdb(heed::MdbError::MapFull)) => IndexError::Full { map_size },
            other => IndexError::Storage(other),
        }
    }

    /// Whether only a rebuild helps, because the files are damaged.
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
