//! What can go wrong on the way of a model to its folder, and what to do about it.

use super::address::Address;
use super::hash::Hash;
use crate::model::HubId;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Each variant is one sentence for the person who asked for the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a name of the catalogue nor one of a hub.
    #[error("no model is called '{name}': expected one of {known}, or a name on the hub like owner/name")]
    UnknownName {
        /// As it was given.
        name: String,
        /// The names of the catalogue.
        known: String,
    },
    /// The hub says no. [`HubError::about`] makes a sentence of it that names the model.
    #[error("{url} answers with status {status} {code}")]
    Refused {
        /// The address of the request.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own name for the reason.
        code: String,
    },
    /// The hub has no such model, or does not show it.
    #[error(
        "{hub} has no model {id}, or does not show it to everybody: check the name; for a private model set HF_TOKEN \
         to a token that may read it"
    )]
    UnknownModel {
        /// The base address.
        hub: String,
        /// As it was asked for.
        id: String,
    },
    /// The model is there, without this branch, tag or commit.
    #[error("{id} has no revision '{revision}' on {hub}: expected a branch, a tag or a commit")]
    UnknownRevision {
        /// The base address.
        hub: String,
        /// The repository.
        id: String,
        /// As it was asked for.
        revision: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "{hub} does not let {id} be read (status {status}): set HF_TOKEN to a token that may read it; if the model has \
         terms, accept them on its page first"
    )]
    NotAllowed {
        /// The base address.
        hub: String,
        /// The repository.
        id: String,
        /// The HTTP status: 401 or 403.
        status: u16,
    },
    /// No whole answer, however often it was tried.
    #[error(
        "{host} could not be read: {problem}; what has arrived is kept: run the same command again to go on"
    )]
    Unreachable {
        /// The host with its port.
        host: String,
        /// The last problem.
        problem: String,
    },
    /// The certificate is signed by no known authority.
    #[error(
        "{host} cannot be trusted: {problem}; if a proxy of yours answers in its place, add its certificate to the \
         system's, or name the file in SSL_CERT_FILE"
    )]
    Untrusted {
        /// The host with its port.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An answer that no hub gives.
    #[error("{url} does not answer like a hub ({problem}): check LNSP_HUB_ENDPOINT")]
    NotAHub {
        /// The address of the request.
        url: String,
        /// What was received.
        problem: String,
    },
    /// Weights that could run code.
    #[error(
        "{id} has its weights only as a pickle ({file}), which can run code and is never opened here: choose a model \
         or revision with safetensors, or convert it and give its folder"
    )]
    OnlyPickle {
        /// The repository.
        id: String,
        /// The file that is there.
        file: String,
    },
    /// No model that could be used here.
    #[error(
        "{id} has no {file}: expected an embedding model in Hugging Face or sentence-transformers layout"
    )]
    Incomplete {
        /// The repository.
        id: String,
        /// What was looked for.
        file: String,
    },
    /// A name that would be written elsewhere.
    #[error("{id} names a file '{path}': expected a path inside its folder")]
    UnsafePath {
        /// The repository.
        id: String,
        /// As the hub says.
        path: String,
    },
    /// More or fewer bytes than the hub has told.
    #[error(
        "{file}: expected {expected} bytes, received {received}; what came is deleted: run the same command again"
    )]
    WrongSize {
        /// Inside the repository.
        file: String,
        /// As the hub has listed it.
        expected: u64,
        /// What was received.
        received: u64,
    },
    /// Other bytes than the hub has told.
    #[error(
        "{file}: expected {expected}, received {received}; what came is deleted: run the same command again"
    )]
    WrongHash {
        /// Inside the repository.
        file: String,
        /// As the hub has listed it.
        expected: Hash,
        /// The hash of what was received.
        received: Hash,
    },
    /// It would not fit.
    #[error(
        "{}: {needed} bytes are needed, {free} are free: make room, or choose another LNSP_DATA_DIR",
        folder.display()
    )]
    NoRoom {
        /// Where it would go.
        folder: PathBuf,
        /// What is missing of the model.
        needed: u64,
        /// What the disk has.
        free: u64,
    },
    /// A file could not be read or written.
    #[error("{}: {error}{}", path.display(), remedy(error.kind()))]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another pull is running.
    #[error("another pull is at work in {}: wait for its end, or stop it", folder.display())]
    Busy {
        /// The unfinished folder.
        folder: PathBuf,
    },
    /// The folder of this name was not made by a pull.
    #[error("{} is there and was not pulled: use it as it is, or move it away and run this again", folder.display())]
    Foreign {
        /// The folder of the model.
        folder: PathBuf,
    },
    /// TLS could not be set up.
    #[error("TLS cannot be used: {problem}")]
    Tls {
        /// What its library said.
        problem: String,
    },
}

impl HubError {
    /// The meaning of a refusal for a request of this model. Hubs answer 401 also for models that do not exist, so that
    /// the existence of private models stays hidden.
    pub(super) fn about(self, hub: &Address, id: &HubId) -> HubError {
        let HubError::Refused { status, code, .. } = &self else { return self };
        let (hub, repository) = (hub.to_string(), id.repository.clone());
        match (*status, code.as_str()) {
            (404, "RevisionNotFound") => {
                HubError::UnknownRevision { hub, id: repository, revision: id.revision.clone() }
            }
            (401 | 403, "GatedRepo") | (403, _) => {
                HubError::NotAllowed { hub, id: repository, status: *status }
            }
            (401 | 404, _) => HubError::UnknownModel { hub, id: repository },
            _ => self,
        }
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; what has arrived is kept: make room, and run the same command again to go on"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; choose another LNSP_DATA_DIR",
        _ => "",
    }
}

/// Says which file or folder it was.
pub(super) trait At<T> {
    /// The file or folder.
    fn at(self, path: &std::path::Path) -> Result<T, HubError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T, HubError> {
        self.map_err(|error| HubError::Disk { path: path.to_owned(), error })
    }
}

/// The innermost cause: the outer ones say only that a request has failed.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_nothing_and_says_so() {
        let error = std::io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
        let sentence = HubError::Disk { path: "models/x".into(), error }.to_string();
        assert!(
            sentence.starts_with("models/x: ") && sentence.ends_with("run the same command again to go on")
        );
    }
}
