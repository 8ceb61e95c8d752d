//! The shape of a network, from its `config.json`.

use super::error::EncodeError;
use super::json_file::read_json;
use serde::Deserialize;
use std::fmt;
use std::path::Path;

/// The dimensions and parameters of an encoder network.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The network family and the parameters that only it has.
    pub family: Family,
    /// The number of token ids; all ids are below it.
    pub vocabulary: usize,
    /// The dimensions of a token vector.
    pub hidden: usize,
    /// The number of layers.
    pub layers: usize,
    /// The number of attention heads per layer.
    pub heads: usize,
    /// The dimensions of query, key and value in one head.
    pub head_width: usize,
    /// The dimensions between the two linear layers of the feed-forward block.
    pub intermediate: usize,
    /// Added to the variance (T5: to the mean square) in normalisation layers.
    pub eps: f64,
    /// The activation between the two linear layers of the feed-forward block.
    pub activation: Activation,
}

/// The supported network families, with their own parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// BERT: absolute position embeddings are added to the word embeddings.
    Bert {
        /// The rows of the position table: the longest input, in tokens.
        positions: usize,
    },
    /// The encoder of T5: attention has a relative position bias, and the length of the input has no limit.
    T5(T5Shape),
}

/// The parameters that only T5 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct T5Shape {
    /// The number of buckets of relative positions.
    pub buckets: usize,
    /// Distances from here on share one bucket.
    pub max_distance: usize,
    /// The feed-forward block is gated: the activation is multiplied by a second linear layer.
    pub gated: bool,
}

impl T5Shape {
    /// The bucket of the distance from a query to a key. One half of the buckets is for keys after the query. In each
    /// half, the first half of the buckets holds one distance each, and the width of the others grows logarithmically.
    /// Computed in f32, as in training: some distances are on the border of two buckets.
    pub(super) fn bucket(self, distance: i64) -> usize {
        let half = self.buckets / 2;
        let exact = half / 2;
        let behind = if distance > 0 { half } else { 0 };
        let distance = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
        if distance < exact {
            return behind + distance;
        }
        let share =
            (distance as f32 / exact as f32).ln() / (self.max_distance as f64 / exact as f64).ln() as f32;
        let further = (share * (half - exact) as f32) as usize;
        behind + (exact + further).min(half - 1)
    }
}

/// The length T5 was trained with; the limit if its files name none.
const T5_TOKENS: usize = 512;

impl Architecture {
    /// The longest input of the network, in tokens; `None` if the network has no limit.
    pub fn positions(&self) -> Option<usize> {
        match self.family {
            Family::Bert { positions } => Some(positions),
            Family::T5(_) => None,
        }
    }

    /// The longest input if the files of the model name no limit.
    pub(super) fn default_max_tokens(&self) -> usize {
        self.positions().unwrap_or(T5_TOKENS)
    }

    /// The number of special tokens in every text.
    pub(super) fn special_tokens(&self) -> usize {
        match self.family {
            Family::Bert { .. } => 2,
            Family::T5(_) => 1,
        }
    }
}

/// The part of the recipe that determines a vector besides the weights.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Architecture { family, layers, heads, eps, activation, .. } = self;
        match family {
            Family::Bert { .. } => write!(f, "bert {layers}x{heads} {activation} eps {eps:e}"),
            Family::T5(T5Shape { buckets, max_distance, gated }) => {
                let gated = if *gated { "gated " } else { "" };
                write!(
                    f,
                    "t5 {layers}x{heads} {gated}{activation} eps {eps:e} {buckets}/{max_distance} distances"
                )
            }
        }
    }
}

/// The activation function of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU, computed with the error function.
    Gelu,
    /// GELU, approximated by a hyperbolic tangent.
    GeluTanh,
    /// ReLU: negative values become 0.
    Relu,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu-tanh",
            Activation::Relu => "relu",
        })
    }
}

#[derive(Deserialize)]
struct ModelType {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct BertConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

/// The defaults are those of `transformers`; older files omit these fields.
#[derive(Deserialize)]
struct T5Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    relative_attention_max_distance: usize,
    #[serde(default = "t5_eps")]
    layer_norm_epsilon: f64,
    feed_forward_proj: Option<String>,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn t5_eps() -> f64 {
    1e-6
}

pub(super) fn read_architecture(
    path: &Path,
    missing: impl Fn() -> EncodeError,
) -> Result<Architecture, EncodeError> {
    let kind: ModelType = read_json(path)?.ok_or_else(&missing)?;
    let model_type = kind.model_type.unwrap_or_default();
    match model_type.as_str() {
        "bert" => bert(path, read_json(path)?.ok_or_else(&missing)?),
        "t5" | "mt5" => t5(path, read_json(path)?.ok_or_else(&missing)?, &model_type),
        other => Err(unsupported(path, format!("model type `{other}`"), "bert, t5 or mt5")),
    }
}

fn unsupported(path: &Path, received: String, expected: &'static str) -> EncodeError {
    EncodeError::Unsupported { path: path.to_owned(), received, expected }
}

/// The largest width of a layer, and the largest number of heads: far above those of any model.
pub(super) const WIDEST: usize = 1 << 16;
/// The largest number of layers.
const DEEPEST: usize = 1 << 10;
/// The largest vocabulary: token ids are `i32`.
const MOST_TOKENS: usize = i32::MAX as usize;
/// The longest position table, and the largest distance of T5.
const FARTHEST: usize = 1 << 24;

/// Refuses sizes that no model has and that would overflow, or divide by zero, where they are used.
fn check_sizes(path: &Path, sizes: &[(&str, usize, usize)]) -> Result<(), EncodeError> {
    match sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
        Some((name, size, most)) => {
            Err(EncodeError::bad_file(path, format!("expected {name} from 1 to {most}, received {size}")))
        }
        None => Ok(()),
    }
}

fn bert(path: &Path, bert: BertConfig) -> Result<Architecture, EncodeError> {
    check_sizes(
        path,
        &[
            ("vocab_size", bert.vocab_size, MOST_TOKENS),
            ("hidden_size", bert.hidden_size, WIDEST),
            ("num_hidden_layers", bert.num_hidden_layers, DEEPEST),
            ("num_attention_heads", bert.num_attention_heads, WIDEST),
            ("intermediate_size", bert.intermediate_size, WIDEST * 4),
            ("max_position_embeddings", bert.max_position_embeddings, FARTHEST),
        ],
    )?;
    let activation = match bert.hidden_act.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => {
            let expected = "gelu, gelu_new, gelu_pytorch_tanh or relu";
            return Err(unsupported(path, format!("activation `{other}`"), expected));
        }
    };
    if let Some(positions) = bert.position_embedding_type.filter(|kind| kind != "absolute") {
        return Err(unsupported(path, format!("position embedding `{positions}`"), "absolute"));
    }
    if bert.is_decoder {
        return Err(unsupported(path, "is_decoder=true".to_owned(), "an encoder"));
    }
    if !bert.hidden_size.is_multiple_of(bert.num_attention_heads) {
        let reason = format!(
            "expected hidden_size to be a multiple of num_attention_heads, received {} and {}",
            bert.hidden_size, bert.num_attention_heads
        );
        return Err(EncodeError::bad_file(path, reason));
    }
    Ok(Architecture {
        family: Family::Bert { positions: bert.max_position_embeddings },
        vocabulary: bert.vocab_size,
        hidden: bert.hidden_size,
        layers: bert.num_hidden_layers,
        heads: bert.num_attention_heads,
        head_width: bert.hidden_size / bert.num_attention_heads,
        intermediate: bert.intermediate_size,
        eps: bert.layer_norm_eps,
        activation,
    })
}

fn t5(path: &Path, t5: T5Config, model_type: &str) -> Result<Architecture, EncodeError> {
    check_sizes(
        path,
        &[
            ("vocab_size", t5.vocab_size, MOST_TOKENS),
            ("d_model", t5.d_model, WIDEST),
            ("d_kv", t5.d_kv, WIDEST),
            ("d_ff", t5.d_ff, WIDEST * 4),
            ("num_layers", t5.num_layers, DEEPEST),
            ("num_heads", t5.num_heads, WIDEST),
            ("relative_attention_max_distance", t5.relative_attention_max_distance, FARTHEST),
        ],
    )?;
    let plain = if model_type == "t5" { "relu" } else { "gated-gelu" };
    let feed_forward = t5.feed_forward_proj.as_deref().unwrap_or(plain);
    let (gated, name) = match feed_forward.strip_prefix("gated-") {
        Some(name) => (true, name),
        None => (false, feed_forward),
    };
    let activation = match (gated, name) {
        (_, "relu") => Activation::Relu,
        // In this format, the gated `gelu` has always been the approximation.
        (true, "gelu") | (_, "gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        (false, "gelu") => Activation::Gelu,
        _ => {
            let received = format!("feed_forward_proj `{feed_forward}`");
            return Err(unsupported(path, received, "relu, gelu, gelu_new or gated- with one of them"));
        }
    };
    let (buckets, max_distance) = (t5.relative_attention_num_buckets, t5.relative_attention_max_distance);
    // Half of the buckets are for later tokens, and half of each half holds one distance per bucket.
    if !buckets.is_multiple_of(4) || buckets == 0 || max_distance <= buckets / 4 {
        let reason = format!(
            "expected relative_attention_num_buckets to be a multiple of 4 and relative_attention_max_distance to be \
             above a quarter of it, received {buckets} and {max_distance}"
        );
        return Err(EncodeError::bad_file(path, reason));
    }
    Ok(Architecture {
        family: Family::T5(T5Shape { buckets, max_distance, gated }),
        vocabulary: t5.vocab_size,
        hidden: t5.d_model,
        layers: t5.num_layers,
        heads: t5.num_heads,
        head_width: t5.d_kv,
        intermediate: t5.d_ff,
        eps: t5.layer_norm_epsilon,
        activation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values computed with `transformers`, for 32 buckets and distances up to 128.
    #[test]
    fn distances_have_the_buckets_of_transformers() {
        let shape = T5Shape { buckets: 32, max_distance: 128, gated: false };
        let buckets =
            [0, -1, 1, -7, -8, 8, -11, -12, 16, -16, -90, -91, 127, 128, -100_000].map(|d| shape.bucket(d));
        assert_eq!(buckets, [0, 1, 17, 7, 8, 24, 8, 9, 26, 10, 14, 15, 31, 31, 15]);
    }
}
