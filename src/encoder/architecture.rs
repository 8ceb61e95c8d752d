//! The shape of a network, from its `config.json`.

use super::EncodeError;
use super::model_files::read_json;
use serde::Deserialize;
use std::fmt;
use std::path::Path;

/// The shape of a BERT encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Width of a token vector.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width between the two halves of the feed-forward part.
    pub intermediate: usize,
    /// The longest input the position table allows.
    pub positions: usize,
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// Between the two halves of the feed-forward part.
    pub activation: Activation,
}

/// The two forms of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// With the error function.
    Gelu,
    /// Approximated by a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// libtorch's name of the form.
    pub(super) fn approximation(self) -> &'static str {
        match self {
            Activation::Gelu => "none",
            Activation::GeluTanh => "tanh",
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu-tanh",
        })
    }
}

#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Bert {
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

pub(super) fn read_architecture(
    path: &Path,
    missing: impl Fn() -> EncodeError,
) -> Result<Architecture, EncodeError> {
    let unsupported = |received: String, expected: &'static str| EncodeError::Unsupported {
        path: path.to_owned(),
        received,
        expected,
    };
    let kind: Kind = read_json(path)?.ok_or_else(&missing)?;
    let model_type = kind.model_type.unwrap_or_default();
    if model_type != "bert" {
        return Err(unsupported(format!("model type `{model_type}`"), "bert"));
    }
    let bert: Bert = read_json(path)?.ok_or_else(&missing)?;
    let activation = match bert.hidden_act.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        other => {
            return Err(unsupported(format!("activation `{other}`"), "gelu, gelu_new or gelu_pytorch_tanh"));
        }
    };
    if let Some(positions) = bert.position_embedding_type.filter(|kind| kind != "absolute") {
        return Err(unsupported(format!("position embedding `{positions}`"), "absolute"));
    }
    if bert.is_decoder {
        return Err(unsupported("is_decoder=true".to_owned(), "an encoder"));
    }
    if bert.num_attention_heads == 0 || !bert.hidden_size.is_multiple_of(bert.num_attention_heads) {
        let reason = format!(
            "expected hidden_size to be a multiple of num_attention_heads, received {} and {}",
            bert.hidden_size, bert.num_attention_heads
        );
        return Err(EncodeError::bad_file(path, reason));
    }
    Ok(Architecture {
        vocabulary: bert.vocab_size,
        hidden: bert.hidden_size,
        layers: bert.num_hidden_layers,
        heads: bert.num_attention_heads,
        intermediate: bert.intermediate_size,
        positions: bert.max_position_embeddings,
        eps: bert.layer_norm_eps,
        activation,
    })
}
