//! Why a text has no vector, and whether the text is to blame.

use super::RemoteError;
use crate::encoder::EncodeError;
use crate::threads::WorkerError;
use std::sync::Arc;

/// Each is a sentence for the one who sent the text. Cheap to clone: a pass that fails answers each of its texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// The encoder panicked.
    #[error("the model broke on this text")]
    Broken,
    /// libtorch found no room.
    #[error("the model has not enough memory for this text alone: {0}; give it more memory")]
    OutOfMemory(EncodeError),
    /// Anything else that the tokenizer or the encoder reports.
    #[error(transparent)]
    Encode(EncodeError),
    /// Not one vector for each text.
    #[error("the model gave no vector: expected {expected}, received {received}")]
    Count {
        /// Texts.
        expected: usize,
        /// Vectors.
        received: usize,
    },
    /// After a panic the model could not be built again; the next pass tries once more.
    #[error("the model is being loaded; send it again")]
    Loading,
    /// The threads have ended.
    #[error("the service is going down; send it again")]
    Gone,
    /// An embedding server failed.
    #[error("the embedding server at {endpoint} {error}")]
    Server {
        /// Where it is.
        endpoint: Arc<str>,
        /// What it did.
        error: RemoteError,
    },
}

impl VectorError {
    /// The label in metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            VectorError::Broken => "panic",
            VectorError::OutOfMemory(_) => "out_of_memory",
            VectorError::Encode(_) | VectorError::Count { .. } => "error",
            VectorError::Loading | VectorError::Gone => "unavailable",
            VectorError::Server { .. } => "server",
        }
    }

    /// A single text of the pass may be to blame: it is worth looking for it.
    pub fn may_be_a_text(&self) -> bool {
        match self {
            VectorError::Loading | VectorError::Gone => false,
            VectorError::Server { error, .. } => error.blames_a_text() || error.is_internal(),
            VectorError::Broken
            | VectorError::OutOfMemory(_)
            | VectorError::Encode(_)
            | VectorError::Count { .. } => true,
        }
    }

    /// The same text can fare better later: no text is to blame.
    pub fn retryable(&self) -> bool {
        match self {
            VectorError::Loading | VectorError::Gone => true,
            VectorError::Server { error, .. } => !error.blames_a_text(),
            VectorError::Broken
            | VectorError::OutOfMemory(_)
            | VectorError::Encode(_)
            | VectorError::Count { .. } => false,
        }
    }
}

/// How libtorch says that it has no room: CUDA, then its allocators for the processor.
const SCARCE: [&str; 3] = ["out of memory", "not enough memory", "can't allocate memory"];

impl From<EncodeError> for VectorError {
    fn from(error: EncodeError) -> Self {
        let scarce = |reason: &str| SCARCE.iter().any(|sign| reason.to_ascii_lowercase().contains(sign));
        match &error {
            EncodeError::Torch { reason, .. } if scarce(reason) => VectorError::OutOfMemory(error),
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
    fn what_libtorch_says_without_memory_is_understood() {
        // More than any machine has: 4 PiB.
        let error = Tensor::f_empty([1 << 52], (Kind::Uint8, Device::Cpu)).unwrap_err().to_string();
        let reason = error.lines().next().unwrap().to_owned();
        let error = VectorError::from(EncodeError::Torch { doing: "attention", reason: reason.clone() });
        assert!(matches!(error, VectorError::OutOfMemory(_)), "{reason}");
        let other = EncodeError::Torch { doing: "attention", reason: "shapes do not match".to_owned() };
        assert_eq!(VectorError::from(other.clone()), VectorError::Encode(other));
    }
}
