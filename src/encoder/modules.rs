//! Pooling and dense layer, from `modules.json` and the folders it names, in the layout of sentence-transformers.

use super::architecture::WIDEST;
use super::error::EncodeError;
use super::json_file::{inside, missing, read_json};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// How the token vectors of a text are combined to one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all token vectors.
    Mean,
    /// The vector of the first token.
    Cls,
}

/// The spelling in the recipe.
impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        })
    }
}

/// The files and parameters of the dense layer after pooling.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseFiles {
    /// The path of its safetensors file.
    pub weights: PathBuf,
    /// The dimensions of the pooled vector.
    pub input: usize,
    /// The dimensions of the result.
    pub output: usize,
    /// Whether the layer has a bias.
    pub bias: bool,
    /// The activation function of the layer.
    pub activation: DenseActivation,
}

/// The activation function of a dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseActivation {
    /// The output is not changed.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
}

/// The spelling in the recipe.
impl fmt::Display for DenseFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activation = match self.activation {
            DenseActivation::Identity => "",
            DenseActivation::Tanh => " tanh",
        };
        write!(f, "dense {}{activation}", self.output)
    }
}

#[derive(Deserialize)]
struct ModuleEntry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The contents of `modules.json`.
pub(super) struct Modules {
    /// The folder of the network.
    pub(super) transformer: PathBuf,
    /// The folder of the pooling configuration, for [`read_pooling`].
    pub(super) pooling: Option<PathBuf>,
    pub(super) dense: Option<DenseModule>,
}

/// Reads `modules.json`. A plain Hugging Face folder has none; it gets mean pooling, as in sentence-transformers.
/// `Normalize` may be absent, because all vectors are normalised anyway.
pub(super) fn read_modules(folder: &Path) -> Result<Modules, EncodeError> {
    let path = folder.join("modules.json");
    let (mut transformer, mut pooling, mut dense) = (folder.to_owned(), None, None);
    for module in read_json::<Vec<ModuleEntry>>(&path)?.unwrap_or_default() {
        let place = inside(folder, "modules.json", &module.path)?;
        match module.kind.rsplit('.').next() {
            Some("Transformer") => transformer = place,
            Some("Pooling") => pooling = Some(place),
            Some("Dense") if dense.is_none() => dense = Some(DenseModule { folder: place }),
            Some("Normalize") => {}
            _ => {
                return Err(EncodeError::Unsupported {
                    path,
                    received: format!("module `{}`", module.kind),
                    expected: "Transformer, Pooling, one Dense and Normalize",
                });
            }
        }
    }
    Ok(Modules { transformer, pooling, dense })
}

pub(super) fn read_pooling(folder: Option<&Path>) -> Result<Pooling, EncodeError> {
    let Some(folder) = folder else { return Ok(Pooling::Mean) };
    let path = folder.join("config.json");
    let config: serde_json::Map<String, serde_json::Value> =
        read_json(&path)?.ok_or_else(|| missing(folder, "config.json"))?;
    let modes: Vec<&str> = config
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("pooling_mode")? {
            "" => value.as_str(),
            mode if value == true => Some(mode.trim_matches('_')),
            _ => None,
        })
        .collect();
    match modes[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => Err(EncodeError::Unsupported {
            path,
            received: format!("pooling [{}]", modes.join(", ")),
            expected: "mean or cls alone",
        }),
    }
}

/// A dense layer whose configuration has not been read.
pub(super) struct DenseModule {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
}

fn yes() -> bool {
    true
}

impl DenseModule {
    /// Reads the configuration; `pooled` is the number of dimensions of the pooled vector.
    pub(super) fn open(self, pooled: usize) -> Result<DenseFiles, EncodeError> {
        let path = self.folder.join("config.json");
        let config: DenseConfig = read_json(&path)?.ok_or_else(|| missing(&self.folder, "config.json"))?;
        let DenseConfig { in_features: input, out_features: output, bias, activation_function } = config;
        if input != pooled || !(1..=WIDEST).contains(&output) {
            let reason = format!(
                "expected in_features={pooled}, the width of the network, and out_features from 1 to {WIDEST}, \
                 received {input} and {output}"
            );
            return Err(EncodeError::bad_file(&path, reason));
        }
        // The name of a Python class; the default of sentence-transformers is Tanh.
        let class = activation_function.as_deref().unwrap_or("Tanh");
        let activation = match class.rsplit('.').next() {
            Some("Identity") => DenseActivation::Identity,
            Some("Tanh") => DenseActivation::Tanh,
            _ => {
                return Err(EncodeError::Unsupported {
                    path,
                    received: format!("activation `{class}`"),
                    expected: "Identity or Tanh",
                });
            }
        };
        let weights = self.folder.join("model.safetensors");
        if !weights.is_file() {
            return Err(missing(&self.folder, "weights (model.safetensors)"));
        }
        Ok(DenseFiles { weights, input, output, bias, activation })
    }
}
