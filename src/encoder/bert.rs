//! The forward pass of a BERT encoder.
//!
//! Between layers a batch is one matrix with one row per token, so each linear layer is a single matrix product.
//! Nothing is transposed in memory: attention reads query, key and value as views of the product that computes them.

use super::architecture::{Activation, Architecture};
use super::attention::Attention;
use super::device::Dtype;
use super::error::Doing;
use super::error::EncodeError;
use super::linear::{FusedKernels, Linear, LinearKind, LinearWeights};
use super::weights::Weights;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A BERT encoder in one number format. Norms, attention and products accumulate in f32 in both formats.
pub(super) struct Bert {
    words: Tensor,
    /// Position embeddings plus the embedding of token type 0, which all texts have.
    positions: Tensor,
    norm: Norm,
    layers: Vec<BertLayer>,
    attention: Attention,
    activation: Activation,
    dtype: Dtype,
    /// Determines the padded number of rows; see [`LinearKind::rows`].
    linear: LinearKind,
}

struct BertLayer {
    /// Query, key and value as one linear layer.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

impl BertLayer {
    fn share_weights(&self) -> BertLayer {
        BertLayer {
            qkv: self.qkv.share_weights(),
            attention_output: self.attention_output.share_weights(),
            attention_norm: self.attention_norm.share_weights(),
            intermediate: self.intermediate.share_weights(),
            output: self.output.share_weights(),
            output_norm: self.output_norm.share_weights(),
        }
    }
}

impl Bert {
    /// `positions` is the number of rows of the position table.
    pub(super) fn new(
        (shape, positions): (&Architecture, usize),
        weights: &Weights,
        dtype: Dtype,
        kernels: Option<&Arc<FusedKernels>>,
    ) -> Result<Self, EncodeError> {
        let (hidden, intermediate) = (shape.hidden as i64, shape.intermediate as i64);
        let words = weights.get("embeddings.word_embeddings.weight", &[shape.vocabulary as i64, hidden])?;
        let positions = weights.get("embeddings.position_embeddings.weight", &[positions as i64, hidden])?;
        let type_0 = weights.first_row("embeddings.token_type_embeddings.weight", hidden)?;
        let positions = positions.f_add(&type_0).doing("adding embeddings")?;
        // On a CPU, norms accept f32 weights for bf16 tokens; elsewhere both must have the same type.
        let norm_kind = if words.device() == Device::Cpu { Kind::Float } else { dtype.kind() };
        let norm = |name: &str| Norm::new(weights, name, (hidden, shape.eps), norm_kind);
        let scale = (shape.head_width as f64).powf(-0.5);
        let layer = |index: usize| -> Result<BertLayer, EncodeError> {
            let at = format!("encoder.layer.{index}");
            let linear = |name: &str, out, input| weights.linear(&format!("{at}.{name}"), out, input);
            let query = linear("attention.self.query", hidden, hidden)?;
            let key = linear("attention.self.key", hidden, hidden)?;
            let value = linear("attention.self.value", hidden, hidden)?;
            // The scale of the attention scores is multiplied into the weights of the queries.
            let qkv = LinearWeights::joined([query.scaled(scale)?, key, value])?;
            let attention_output = linear("attention.output.dense", hidden, hidden)?;
            let up = linear("intermediate.dense", intermediate, hidden)?;
            let down = linear("output.dense", hidden, intermediate)?;
            Ok(BertLayer {
                qkv: Linear::new(&qkv, dtype, kernels)?,
                attention_output: Linear::new(&attention_output, dtype, kernels)?,
                attention_norm: norm(&format!("{at}.attention.output.LayerNorm"))?,
                intermediate: Linear::new(&up, dtype, kernels)?,
                output: Linear::new(&down, dtype, kernels)?,
                output_norm: norm(&format!("{at}.output.LayerNorm"))?,
            })
        };
        Ok(Bert {
            norm: Norm::new(weights, "embeddings.LayerNorm", (hidden, shape.eps), Kind::Float)?,
            layers: (0..shape.layers).map(layer).collect::<Result<_, _>>()?,
            words,
            positions,
            attention: Attention {
                heads: shape.heads as i64,
                head_width: shape.head_width as i64,
                in_steps: dtype == Dtype::Bf16 && kernels.is_some(),
            },
            activation: shape.activation,
            dtype,
            linear: if kernels.is_some() { LinearKind::Packed } else { LinearKind::Default },
        })
    }

    /// The same network over the same weights, for another thread. Passes only read the weights, and libtorch counts
    /// their owners atomically.
    pub(super) fn share_weights(&self) -> Bert {
        Bert {
            words: self.words.shallow_clone(),
            positions: self.positions.shallow_clone(),
            norm: self.norm.share_weights(),
            layers: self.layers.iter().map(BertLayer::share_weights).collect(),
            ..*self
        }
    }

    /// Token vectors `[texts, width, hidden]` in the model's number format, from token ids `[texts, width]`. Each row
    /// has as many tokens as `lengths` says and is padded; the vectors of padding are undefined.
    pub(super) fn forward(&self, ids: &Tensor, lengths: &[usize]) -> Result<Tensor, EncodeError> {
        let (texts, width) = ids.size2().doing("reading the shape of a batch")?;
        let hidden = self.attention.heads * self.attention.head_width;
        let bias = self
            .attention
            .bias(lengths, None, (width as usize, self.dtype.kind(), ids.device()))
            .doing("building the mask")?;
        let tokens = texts * width;
        let more = self.linear.rows(tokens) - tokens;
        let fill = |rows: Tensor| if more == 0 { Ok(rows) } else { rows.f_constant_pad_nd([0, 0, 0, more]) };
        let mut x = self.embed(ids, [tokens, hidden]).and_then(fill).doing("embedding tokens")?;
        for layer in &self.layers {
            let qkv = layer.qkv.apply(&x)?.f_narrow(0, 0, tokens).doing("computing attention")?;
            let attended = self.attention.apply(&qkv, &bias).and_then(fill).doing("computing attention")?;
            x = layer.attention_norm.apply(&layer.attention_output.apply_add(&attended, &x)?)?;
            let inner = layer.intermediate.apply_then(&x, self.activation)?;
            x = layer.output_norm.apply(&layer.output.apply_add(&inner, &x)?)?;
        }
        x.f_narrow(0, 0, tokens).and_then(|x| x.f_view([texts, width, hidden])).doing("shaping the result")
    }

    /// `[tokens, hidden]`. Computed in f32 up to the first norm in both formats, since each row of the table is read
    /// once per token.
    fn embed(&self, ids: &Tensor, rows: [i64; 2]) -> Result<Tensor, tch::TchError> {
        let words = Tensor::f_embedding(&self.words, ids, -1, false, false)?;
        let positions = self.positions.f_narrow(0, 0, words.size3()?.1)?;
        self.norm.run(&words.f_add(&positions)?)?.f_to_kind(self.dtype.kind())?.f_view(rows)
    }
}

/// A layer normalisation with weight and bias.
struct Norm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
    eps: f64,
}

impl Norm {
    fn new(weights: &Weights, name: &str, (width, eps): (i64, f64), kind: Kind) -> Result<Self, EncodeError> {
        let get = |part: &str| {
            weights.get(&format!("{name}.{part}"), &[width])?.f_to_kind(kind).doing("reading weights")
        };
        Ok(Norm { weight: get("weight")?, bias: get("bias")?, width, eps })
    }

    fn share_weights(&self) -> Norm {
        Norm { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), ..*self }
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor, EncodeError> {
        self.run(x).doing("normalising a layer")
    }

    fn run(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        x.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}
