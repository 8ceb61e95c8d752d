//! From token vectors to one vector per text: pooling, then the dense layer of models that have one. Computed in f32
//! with both number formats of the network.

use super::device::to_device;
use super::error::Doing;
use super::error::EncodeError;
use super::model_files::ModelFiles;
use super::modules::{DenseActivation, DenseFiles, Pooling};
use super::weights::Weights;
use tch::{Device, Kind, TchError, Tensor};

/// Pooling and the optional dense layer.
pub(super) struct Head {
    pooling: Pooling,
    dense: Option<Dense>,
}

struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
    activation: DenseActivation,
}

impl Head {
    pub(super) fn load(files: &ModelFiles, device: Device) -> Result<Self, EncodeError> {
        let dense = files.dense.as_ref().map(|dense| Dense::load(dense, device)).transpose()?;
        Ok(Head { pooling: files.pooling, dense })
    }

    /// The same head over the same weights.
    pub(super) fn share_weights(&self) -> Head {
        let dense = self.dense.as_ref().map(|Dense { weight, bias, activation }| Dense {
            weight: weight.shallow_clone(),
            bias: bias.as_ref().map(Tensor::shallow_clone),
            activation: *activation,
        });
        Head { pooling: self.pooling, dense }
    }

    /// Vectors `[texts, dims]`, not normalised, from token vectors `[texts, width, hidden]`.
    pub(super) fn apply(&self, tokens: &Tensor, lengths: &[usize]) -> Result<Tensor, EncodeError> {
        let pooled = self.pool(tokens, lengths).doing("pooling")?;
        match &self.dense {
            Some(dense) => dense.apply(&pooled).doing("applying the dense layer"),
            None => Ok(pooled),
        }
    }

    fn pool(&self, tokens: &Tensor, lengths: &[usize]) -> Result<Tensor, TchError> {
        match self.pooling {
            Pooling::Cls => tokens.f_select(1, 0)?.f_to_kind(Kind::Float),
            Pooling::Mean => {
                let (_, width, _) = tokens.size3()?;
                let shares = to_device(&mean_shares(lengths, width as usize)?, tokens.device())?;
                shares.f_bmm(&tokens.f_to_kind(Kind::Float)?)?.f_squeeze_dim(1)
            }
        }
    }
}

/// `[texts, 1, width]`: the weight of each token in the mean of its text, 0 for padding.
fn mean_shares(lengths: &[usize], width: usize) -> Result<Tensor, TchError> {
    let mut shares = vec![0_f32; lengths.len() * width];
    for (row, &length) in shares.chunks_exact_mut(width).zip(lengths) {
        row[..length].fill(1.0 / length as f32);
    }
    Tensor::f_from_slice(&shares)?.f_view([lengths.len() as i64, 1, width as i64])
}

impl Dense {
    fn load(files: &DenseFiles, device: Device) -> Result<Self, EncodeError> {
        let weights = Weights::read(std::slice::from_ref(&files.weights), "", device)?;
        let (input, output) = (files.input as i64, files.output as i64);
        Ok(Dense {
            weight: weights.get("linear.weight", &[output, input])?,
            bias: files.bias.then(|| weights.get("linear.bias", &[output])).transpose()?,
            activation: files.activation,
        })
    }

    fn apply(&self, pooled: &Tensor) -> Result<Tensor, TchError> {
        let product = pooled.f_linear(&self.weight, self.bias.as_ref())?;
        match self.activation {
            DenseActivation::Identity => Ok(product),
            DenseActivation::Tanh => product.f_tanh(),
        }
    }
}
