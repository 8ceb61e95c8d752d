//! The errors of opening the cache.

use std::path::PathBuf;

/// Why the cache could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process uses it.
    #[error("{} is used by another process", .0.display())]
    Locked(PathBuf),
    /// The folder or a file in it.
    #[error("{}: {error}", path.display())]
    Folder {
        /// The path that was tried.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The error of LMDB.
    #[error("{0}")]
    Environment(String),
}
