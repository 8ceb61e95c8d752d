//! The files of a model: a local folder in the layout of Hugging Face and sentence-transformers.
//!
//! All checks that need no computation are here, so an invalid folder fails the start with one sentence. Weights are
//! read as safetensors only; pickle files can execute code and are never opened.

use super::architecture::{Architecture, read_architecture};
use super::error::EncodeError;
use super::json_file::{FETCH_AGAIN, inside, missing, read_json};
use super::modules::{DenseFiles, Modules, Pooling, read_modules, read_pooling};
use crate::model::{ModelIdentity, folder_name};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ONLY_SAFETENSORS: &str =
    "only safetensors weights are read; fetch them, or save the model again with safe serialisation";

/// The files of one model and its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFiles {
    /// The folder of the model.
    pub folder: PathBuf,
    /// The last part of the folder's name.
    pub name: String,
    /// The paths of the safetensors files, one or several.
    pub weights: Vec<PathBuf>,
    /// The path of `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The longest input in tokens; longer texts are truncated.
    pub max_tokens: usize,
    /// Whether texts are converted to lower case before tokenizing.
    pub lowercase: bool,
    /// How token vectors are combined to one vector.
    pub pooling: Pooling,
    /// The dense layer after pooling, in models that have one.
    pub dense: Option<DenseFiles>,
    /// The dimensions and parameters of the network.
    pub architecture: Architecture,
}

/// Finds and opens a model. `spec` is the path of a folder, or a name (also a hub name) that is a subfolder of one of
/// the `search` folders.
///
/// # Errors
/// [`EncodeError::UnknownModel`] if no such folder exists; otherwise the errors of [`ModelFiles::open`].
pub fn locate(spec: &str, search: &[PathBuf]) -> Result<ModelFiles, EncodeError> {
    // Names have priority over a folder of that name in the working directory, which may be there by chance.
    let name = folder_name(spec);
    let named = search.iter().filter_map(|folder| Some(folder.join(name.as_ref()?)));
    match named.chain([PathBuf::from(spec)]).find(|folder| folder.is_dir()) {
        Some(folder) => ModelFiles::open(&folder),
        None => {
            let searched: Vec<String> = search.iter().map(|folder| folder.display().to_string()).collect();
            Err(EncodeError::UnknownModel { spec: spec.to_owned(), searched: searched.join(", ") })
        }
    }
}

impl ModelFiles {
    /// Reads the configuration of the model in a folder.
    ///
    /// # Errors
    /// The file that is missing, invalid or not supported. The weights must exist but are not read.
    pub fn open(folder: &Path) -> Result<Self, EncodeError> {
        let Modules { transformer: network, pooling, dense } = read_modules(folder)?;
        let architecture =
            read_architecture(&network.join("config.json"), || missing(&network, "config.json"))?;
        let tokenizer = network.join("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(missing(&network, "tokenizer.json"));
        }
        let sentence: SentenceConfig =
            read_json(&network.join("sentence_bert_config.json"))?.unwrap_or_default();
        let tokens: TokenizerConfig = read_json(&network.join("tokenizer_config.json"))?.unwrap_or_default();
        // Some tokenizers have 1e30 for "no limit". The conversion saturates, and the position table is the limit.
        let limit = sentence.max_seq_length.or(tokens.model_max_length.map(|limit| limit as usize));
        let limit = limit.filter(|&limit| limit < UNLIMITED).unwrap_or(architecture.default_max_tokens());
        let max_tokens = limit.min(architecture.positions().unwrap_or(limit));
        if max_tokens <= architecture.special_tokens() {
            let expected = architecture.special_tokens() + 1;
            let path = network.join("sentence_bert_config.json");
            return Err(EncodeError::bad_file(
                &path,
                format!("expected max_seq_length >= {expected}, received {max_tokens}"),
            ));
        }
        refuse_prompt(folder)?;
        let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        Ok(ModelFiles {
            name: absolute.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            weights: find_weights(&network)?,
            pooling: read_pooling(pooling.as_deref())?,
            dense: dense.map(|dense| dense.open(architecture.hidden)).transpose()?,
            folder: folder.to_owned(),
            tokenizer,
            max_tokens,
            lowercase: sentence.do_lower_case,
            architecture,
        })
    }

    /// The same model with another limit of tokens. The limit changes vectors of long texts, so it is part of the
    /// identity.
    ///
    /// # Errors
    /// [`EncodeError::InvalidSetting`] if the limit is above the position table, or leaves only special tokens.
    pub fn with_max_tokens(self, max_tokens: usize) -> Result<Self, EncodeError> {
        let least = self.architecture.special_tokens() + 1;
        let most = self.architecture.positions();
        if max_tokens < least || most.is_some_and(|most| max_tokens > most) {
            let most = most.map_or("more".to_owned(), |most| most.to_string());
            return Err(EncodeError::InvalidSetting {
                variable: "LNSP_EMBEDDING_MAX_TOKENS",
                received: max_tokens.to_string(),
                expected: format!("{least} to {most} tokens for the model {}", self.name),
            });
        }
        Ok(ModelFiles { max_tokens, ..self })
    }

    /// The number of dimensions of the vectors.
    pub fn dims(&self) -> usize {
        self.dense.as_ref().map_or(self.architecture.hidden, |dense| dense.output)
    }

    /// Computes the identity of the model; reads all its files once. Models with the same fingerprint compute the same
    /// vectors, up to rounding.
    ///
    /// # Errors
    /// [`EncodeError::BadFile`] if a file cannot be read.
    pub fn identity(&self) -> Result<ModelIdentity, EncodeError> {
        let recipe = self.recipe();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lnsp model 1").update(&(recipe.len() as u64).to_le_bytes()).update(recipe.as_bytes());
        let dense = self.dense.iter().map(|dense| &dense.weights);
        for path in self.weights.iter().chain(dense).chain([&self.tokenizer]) {
            let hash = hash_file(path).map_err(|error| EncodeError::bad_file(path, error.to_string()))?;
            hasher.update(hash.as_bytes());
        }
        Ok(ModelIdentity {
            name: self.name.clone(),
            recipe,
            fingerprint: hasher.finalize().to_hex().to_string(),
            dims: self.dims(),
        })
    }

    /// Everything that determines a vector besides weights and tokenizer.
    fn recipe(&self) -> String {
        let pooling = match self.pooling {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        };
        let case = if self.lowercase { ", lower case" } else { "" };
        let dense = self.dense.as_ref().map(|dense| format!(", {dense}")).unwrap_or_default();
        let (architecture, tokens) = (&self.architecture, self.max_tokens);
        format!("{architecture}{case}, first {tokens} tokens, {pooling}{dense}, normalised")
    }
}

/// A limit of this many tokens or more means no limit.
const UNLIMITED: usize = 1 << 24;

fn hash_file(path: &Path) -> std::io::Result<blake3::Hash> {
    Ok(blake3::Hasher::new().update_reader(fs::File::open(path)?)?.finalize())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

#[derive(Deserialize)]
struct Prompts {
    default_prompt_name: Option<String>,
}

/// Rejects models that require a prompt before each text.
fn refuse_prompt(folder: &Path) -> Result<(), EncodeError> {
    let path = folder.join("config_sentence_transformers.json");
    match read_json::<Prompts>(&path)?.and_then(|prompts| prompts.default_prompt_name) {
        Some(prompt) => Err(EncodeError::Unsupported {
            received: format!("default prompt `{prompt}`"),
            expected: "none",
            path,
        }),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn find_weights(folder: &Path) -> Result<Vec<PathBuf>, EncodeError> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let Some(ShardIndex { weight_map }) = read_json(&index)? else {
        let remedy = if folder.join("pytorch_model.bin").exists() { ONLY_SAFETENSORS } else { FETCH_AGAIN };
        let file = "weights (model.safetensors)".to_owned();
        return Err(EncodeError::MissingFile { folder: folder.to_owned(), file, remedy });
    };
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    shards
        .into_iter()
        .map(|shard| {
            let path = inside(folder, "model.safetensors.index.json", &shard)?;
            if path.is_file() { Ok(path) } else { Err(missing(folder, &shard)) }
        })
        .collect()
}
