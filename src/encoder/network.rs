//! One interface to all network families: token ids to token vectors.

use super::architecture::{Architecture, Family};
use super::bert::Bert;
use super::device::Dtype;
use super::error::EncodeError;
use super::linear::FusedKernels;
use super::model_files::ModelFiles;
use super::t5::T5;
use super::weights::Weights;
use std::sync::Arc;
use tch::{Device, Tensor};

/// A network in one number format.
pub(super) enum Network {
    Bert(Bert),
    T5(T5),
}

impl Network {
    /// Reads the weights; the prefix of their names depends on the family.
    pub(super) fn read(files: &ModelFiles, device: Device) -> Result<Weights, EncodeError> {
        let head = match files.architecture.family {
            Family::Bert { .. } => "bert.",
            Family::T5(_) => "transformer.",
        };
        Weights::read(&files.weights, head, device)
    }

    pub(super) fn new(
        architecture: &Architecture,
        weights: &Weights,
        dtype: Dtype,
        kernels: Option<&Arc<FusedKernels>>,
    ) -> Result<Self, EncodeError> {
        match architecture.family {
            Family::Bert { positions } => {
                Bert::new((architecture, positions), weights, dtype, kernels).map(Network::Bert)
            }
            Family::T5(shape) => T5::new((architecture, shape), weights, dtype, kernels).map(Network::T5),
        }
    }

    /// The same network over the same weights, for another thread. Passes only read the weights, and libtorch counts
    /// their owners atomically.
    pub(super) fn share_weights(&self) -> Network {
        match self {
            Network::Bert(bert) => Network::Bert(bert.share_weights()),
            Network::T5(t5) => Network::T5(t5.share_weights()),
        }
    }

    /// Token vectors `[texts, width, hidden]` in the model's number format, from token ids `[texts, width]`. Each row
    /// has as many tokens as `lengths` says and is padded; the vectors of padding are undefined.
    pub(super) fn forward(&self, ids: &Tensor, lengths: &[usize]) -> Result<Tensor, EncodeError> {
        match self {
            Network::Bert(bert) => bert.forward(ids, lengths),
            Network::T5(t5) => t5.forward(ids, lengths),
        }
    }
}
