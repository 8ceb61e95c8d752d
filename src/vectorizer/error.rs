//! Why a text has no vector, and whether the text is the cause.

use super::remote_error::RemoteError;
use crate::encoder::EncodeError;
use crate::threads::WorkerError;
use std::sync::Arc;

/// Why a text has no vector. Each message is a sentence for the client. Cheap to clone, because the error of a failed
/// pass is returned for each of its texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// The encoder panicked.
    #[error("the model broke on this text")]
    Broken,
    /// libtorch could not allocate memory.
    #[error("the model has not enough memory for this text alone: {0}; give it more memory")]
    OutOfMemory(EncodeError),
    /// Any other error of the tokenizer or the encoder.
    #[error(transparent)]
    Encode(EncodeError),
    /// The number of vectors differs from the number of texts.
    #[error("the model gave no vector: expected {expected}, received {received}")]
    Count {
        /// The number of texts.
        expected: usize,
        /// The number of vectors.
        received: usize,
    },
    /// The model could not be built again after a panic; the next pass tries again.
    #[error("the model is being loaded; send it again")]
    Loading,
    /// The threads have ended, because the service is shutting down.
    #[error("the service is going down; send it again")]
    Gone,
    /// An embedding server failed.
    #[error("the embedding server at {endpoint} {error}")]
    Server {
        /// The base address of the server.
        endpoint: Arc<str>,
        /// The error of the request.
        error: RemoteError,
    },
    /// An embedding server fails for this text, and works for another one.
    #[error("the embedding server cannot embed this text, but others: the server at {endpoint} {error}")]
    Refused {
        /// The base address of the server.
        endpoint: Arc<str>,
        /// The error of the request with this text alone.
        error: RemoteError,
    },
}

impl VectorError {
    /// The value of the label `cause` in metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            VectorError::Broken => "panic",
            VectorError::OutOfMemory(_) => "out_of_memory",
            VectorError::Encode(_) | VectorError::Count { .. } => "error",
            VectorError::Loading | VectorError::Gone => "unavailable",
            VectorError::Server { .. } | VectorError::Refused { .. } => "server",
        }
    }

    /// Whether a single text of the pass may be the cause, so that bisecting the pass can isolate it.
    pub fn may_be_a_text(&self) -> bool {
        match self {
            VectorError::Loading | VectorError::Gone => false,
            VectorError::Server { error, .. } => error.may_be_a_text(),
            VectorError::Refused { .. }
            | VectorError::Broken
            | VectorError::OutOfMemory(_)
            | VectorError::Encode(_)
            | VectorError::Count { .. } => true,
        }
    }

    /// Whether the same text can succeed later, because the text is not the cause.
    pub fn retryable(&self) -> bool {
        match self {
            VectorError::Loading | VectorError::Gone | VectorError::Server { .. } => true,
            VectorError::Refused { .. }
            | VectorError::Broken
            | VectorError::OutOfMemory(_)
            | VectorError::Encode(_)
            | VectorError::Count { .. } => false,
        }
    }

    /// The same error as that of the only text of the request.
    pub(super) fn of_the_text(self) -> VectorError {
        match self {
            VectorError::Server { endpoint, error } => VectorError::Refused { endpoint, error },
            error => error,
        }
    }
}

/// A pass without a result.
#[derive(Debug)]
pub(super) struct FailedPass {
    /// Why it has none.
    pub error: VectorError,
    /// What may be the cause.
    pub suspect: Suspect,
}

/// The cause of a failed pass, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspect {
    /// One of its texts.
    Texts,
    /// Something else; another pass may succeed.
    Pass,
    /// The servers, which fail for every text.
    Server,
}

impl FailedPass {
    /// A pass that failed for this reason.
    pub fn new(error: VectorError, suspect: Suspect) -> FailedPass {
        FailedPass { error, suspect }
    }
}

impl From<VectorError> for FailedPass {
    fn from(error: VectorError) -> Self {
        let suspect = if error.may_be_a_text() { Suspect::Texts } else { Suspect::Pass };
        FailedPass { error, suspect }
    }
}

/// libtorch's messages for a failed allocation: CUDA, then its CPU allocators.
const OUT_OF_MEMORY: [&str; 3] = ["out of memory", "not enough memory", "can't allocate memory"];

impl From<EncodeError> for VectorError {
    fn from(error: EncodeError) -> Self {
        let out_of_memory =
            |reason: &str| OUT_OF_MEMORY.iter().any(|message| reason.to_ascii_lowercase().contains(message));
        match &error {
            EncodeError::Torch { reason, .. } if out_of_memory(reason) => VectorError::OutOfMemory(error),
            _ => VectorError::Encode(error),
        }
    }
}

impl From<WorkerError> for VectorError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Panicked(_) => VectorError::Broken,
            WorkerError::Unavailable(_) => VectorError::Loading,
            WorkerError::Gone => VectorError::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_failed_allocation_of_libtorch_is_out_of_memory() {
        // More than any machine has: 4 PiB.
        let error = Tensor::f_empty([1 << 52], (Kind::Uint8, Device::Cpu)).unwrap_err().to_string();
        let reason = error.lines().next().unwrap().to_owned();
        let error = VectorError::from(EncodeError::Torch { doing: "attention", reason: reason.clone() });
        assert!(matches!(error, VectorError::OutOfMemory(_)), "{reason}");
        let other = EncodeError::Torch { doing: "attention", reason: "shapes do not match".to_owned() };
        assert_eq!(VectorError::from(other.clone()), VectorError::Encode(other));
    }
}
