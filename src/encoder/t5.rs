//! The forward pass of a T5 encoder.
//!
//! As in [`super::bert`], a batch is one matrix between layers, with one row per token. The norms of T5 are RMS norms
//! without mean and bias. Their weights are multiplied into the next linear layer, so here a norm only divides each row
//! by its root mean square.

use super::architecture::{Activation, Architecture, T5Shape};
use super::attention::Attention;
use super::device::Dtype;
use super::device::to_device;
use super::error::Doing;
use super::error::EncodeError;
use super::linear::{FusedKernels, Linear, LinearKind, LinearWeights};
use super::weights::Weights;
use std::sync::Arc;
use tch::{Kind, TchError, Tensor};

/// A T5 encoder in one number format.
pub(super) struct T5 {
    words: Tensor,
    /// `[buckets, heads]`: the relative position bias, the same in all layers.
    distances: Tensor,
    layers: Vec<T5Layer>,
    final_norm: Tensor,
    shape: T5Shape,
    attention: Attention,
    eps: f64,
    dtype: Dtype,
    /// Determines the padded number of rows; see [`LinearKind::rows`].
    linear: LinearKind,
}

struct T5Layer {
    /// Query, key and value as one linear layer.
    qkv: Linear,
    attention_output: Linear,
    feed_forward: FeedForward,
}

struct FeedForward {
    up: Linear,
    activation: Activation,
    /// Multiplied with the activation of `up`.
    gate: Option<Linear>,
    down: Linear,
}

impl T5 {
    pub(super) fn new(
        (architecture, shape): (&Architecture, T5Shape),
        weights: &Weights,
        dtype: Dtype,
        kernels: Option<&Arc<FusedKernels>>,
    ) -> Result<Self, EncodeError> {
        let Architecture { hidden, heads, head_width, intermediate, activation, eps, .. } = *architecture;
        let inner = (heads * head_width) as i64;
        let (hidden, intermediate) = (hidden as i64, intermediate as i64);
        let convert = |tensor: Tensor| tensor.f_to_kind(dtype.kind()).doing("converting weights");
        // The name of the table depends on the version of `transformers` that saved it.
        let table = ["shared.weight", "encoder.embed_tokens.weight"];
        let table = if weights.has(table[1]) { table[1] } else { table[0] };
        let layer = |index: usize| -> Result<T5Layer, EncodeError> {
            let at = format!("encoder.block.{index}.layer");
            let norm = |part: usize| weights.get(&format!("{at}.{part}.layer_norm.weight"), &[hidden]);
            let linear = |name: &str, out, input| weights.without_bias(&format!("{at}.{name}"), out, input);
            let query = linear("0.SelfAttention.q", inner, hidden)?;
            let key = linear("0.SelfAttention.k", inner, hidden)?;
            let value = linear("0.SelfAttention.v", inner, hidden)?;
            let qkv = LinearWeights::joined([query, key, value])?.after(&norm(0)?)?;
            let norm = norm(1)?;
            let up = |name: &str| -> Result<Linear, EncodeError> {
                let weights = linear(&format!("1.DenseReluDense.{name}"), intermediate, hidden)?;
                Linear::new(&weights.after(&norm)?, dtype, kernels)
            };
            let down = linear("1.DenseReluDense.wo", hidden, intermediate)?;
            Ok(T5Layer {
                qkv: Linear::new(&qkv, dtype, kernels)?,
                attention_output: Linear::new(&linear("0.SelfAttention.o", hidden, inner)?, dtype, kernels)?,
                feed_forward: FeedForward {
                    up: up(if shape.gated { "wi_0" } else { "wi" })?,
                    activation,
                    gate: shape.gated.then(|| up("wi_1")).transpose()?,
                    down: Linear::new(&down, dtype, kernels)?,
                },
            })
        };
        let distances = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        Ok(T5 {
            words: convert(weights.get(table, &[architecture.vocabulary as i64, hidden])?)?,
            distances: convert(weights.get(distances, &[shape.buckets as i64, heads as i64])?)?,
            layers: (0..architecture.layers).map(layer).collect::<Result<_, _>>()?,
            final_norm: convert(weights.get("encoder.final_layer_norm.weight", &[hidden])?)?,
            shape,
            attention: Attention {
                heads: heads as i64,
                head_width: head_width as i64,
                in_steps: dtype == Dtype::Bf16 && kernels.is_some(),
            },
            eps,
            dtype,
            linear: if kernels.is_some() { LinearKind::Packed } else { LinearKind::Default },
        })
    }

    /// The same network over the same weights, for another thread; see [`super::bert::Bert::share_weights`].
    pub(super) fn share_weights(&self) -> T5 {
        T5 {
            words: self.words.shallow_clone(),
            distances: self.distances.shallow_clone(),
            layers: self.layers.iter().map(T5Layer::share_weights).collect(),
            final_norm: self.final_norm.shallow_clone(),
            ..*self
        }
    }

    /// Token vectors; shapes as in [`super::bert::Bert::forward`].
    pub(super) fn forward(&self, ids: &Tensor, lengths: &[usize]) -> Result<Tensor, EncodeError> {
        let (texts, width) = ids.size2().doing("reading the shape of a batch")?;
        let distances = self.distances(width as usize).doing("computing distances")?;
        let bias = self
            .attention
            .bias(lengths, Some(distances), (width as usize, self.dtype.kind(), ids.device()))
            .doing("building the mask")?;
        let tokens = texts * width;
        let more = self.linear.rows(tokens) - tokens;
        let fill = |rows: Tensor| if more == 0 { Ok(rows) } else { rows.f_constant_pad_nd([0, 0, 0, more]) };
        let words = Tensor::f_embedding(&self.words, ids, -1, false, false);
        let words = words.and_then(|words| words.f_view([tokens, -1])).and_then(fill);
        let mut x = words.doing("embedding tokens")?;
        for layer in &self.layers {
            let qkv =
                layer.qkv.apply(&self.norm(&x)?)?.f_narrow(0, 0, tokens).doing("computing attention")?;
            let attended = self.attention.apply(&qkv, &bias).and_then(fill).doing("computing attention")?;
            x = layer.attention_output.apply_add(&attended, &x)?;
            x = layer.feed_forward.apply_add(&self.norm(&x)?, &x)?;
        }
        let x = self.norm(&x)?.f_mul(&self.final_norm).doing("normalising the result")?;
        x.f_narrow(0, 0, tokens).and_then(|x| x.f_view([texts, width, -1])).doing("shaping the result")
    }

    /// Divides each row by its root mean square, which is accumulated in f32 in both formats.
    fn norm(&self, x: &Tensor) -> Result<Tensor, EncodeError> {
        let run = || -> Result<Tensor, TchError> {
            let width = *x.size().last().unwrap_or(&1) as f64;
            let length = x.f_norm_scalaropt_dim_dtype(2.0, [-1].as_slice(), true, Kind::Float)?;
            let mean_square = length.f_square()?.f_div_scalar(width)?;
            let factor = mean_square.f_add_scalar(self.eps)?.f_rsqrt()?;
            x.f_mul(&factor.f_to_kind(x.kind())?)
        };
        run().doing("normalising a layer")
    }

    /// `[heads, width, width]`: the relative position bias from each query to each key.
    fn distances(&self, width: usize) -> Result<Tensor, TchError> {
        let (heads, wide) = (self.attention.heads, width as i64);
        let behind = |at: i64| self.shape.bucket(at - (wide - 1)) as i64;
        let buckets: Vec<i64> = (0..2 * wide - 1).map(behind).collect();
        let buckets = to_device(&Tensor::f_from_slice(&buckets)?, self.distances.device())?;
        let added = Tensor::f_embedding(&self.distances, &buckets, -1, false, false)?;
        // Row q of the square begins at distance -q. In reverse order, each row begins one element later.
        added
            .f_transpose(0, 1)?
            .f_contiguous()?
            .f_as_strided([heads, wide, wide], [2 * wide - 1, 1, 1], None)?
            .f_flip([1])
    }
}

impl T5Layer {
    fn share_weights(&self) -> T5Layer {
        let FeedForward { up, activation, gate, down } = &self.feed_forward;
        T5Layer {
            qkv: self.qkv.share_weights(),
            attention_output: self.attention_output.share_weights(),
            feed_forward: FeedForward {
                up: up.share_weights(),
                activation: *activation,
                gate: gate.as_ref().map(Linear::share_weights),
                down: down.share_weights(),
            },
        }
    }
}

impl FeedForward {
    /// The block applied to `x`, plus `residual`.
    fn apply_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, EncodeError> {
        let mut inner = self.up.apply_then(x, self.activation)?;
        if let Some(gate) = &self.gate {
            inner = gate.apply_mul(x, &inner)?;
        }
        self.down.apply_add(&inner, residual)
    }
}
