//! Models from a hub (Hugging Face, or a mirror of it) into a folder, whole and verified or not at all.
//!
//! A port beside the encoder, which reads such folders and knows nothing of hubs. Only `lnsp model pull` comes here:
//! the service itself never fetches anything. Files are written by the thread that reads the socket; there is nothing
//! else for it to do.
//!
//! ```text
//!   catalogue      name -> ModelSource (repository, recipe)
//!      |
//!    pull -------> api        commit and list of files, with their hashes
//!      |             |
//!      |           client     one request: TLS, proxy, redirects, time-outs, what an answer means
//!      |             |
//!      +---------> fetch      one file: resumed where it ended, then verified by its hash
//!      |
//!      +-- file_selection     the files that make a model
//!      +-- staging            the folder NAME.part, locked by one pull, becomes NAME in one rename
//!             |
//!          manifest           the files of the folder, and where they come from
//! ```

mod address;
mod api;
mod catalogue;
mod client;
mod connector;
mod error;
mod fetch;
mod file_selection;
mod hash;
mod manifest;
mod observer;
mod pull;
mod staging;

pub use address::{Address, Token};
pub use catalogue::{CATALOGUE, Entry, ModelSource, Recipe};
pub use client::FetchRetry;
pub use error::HubError;
pub use hash::Hash;
pub use manifest::{File, MANIFEST, Manifest};
pub use observer::PullObserver;
pub use pull::{Hub, Pulled, pull};
