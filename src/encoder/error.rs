//! The errors of models; each message says what to do.

use crate::model::folder_name;
use std::path::{Path, PathBuf};

/// An error of loading a model or of encoding a text. Each message is one sentence for the operator or the client.
/// Cheap to clone, because the error of a failed batch is returned for each of its texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The name is neither a folder nor in the catalogue.
    #[error(
        "model `{spec}` not found: expected a local model folder or a name found in one of [{searched}]; {}",
        way_to(spec)
    )]
    UnknownModel {
        /// The value of the setting.
        spec: String,
        /// The searched folders, separated by commas.
        searched: String,
    },
    /// A model folder lacks a file.
    #[error("model folder {} has no {}: {remedy}", folder.display(), beginning(file))]
    MissingFile {
        /// The model folder.
        folder: PathBuf,
        /// The missing file.
        file: String,
        /// The advice in the message.
        remedy: &'static str,
    },
    /// A file of the model is there but cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    BadFile {
        /// The path of the file.
        path: PathBuf,
        /// The problem and the advice.
        reason: String,
    },
    /// The model needs a feature that is not implemented.
    #[error(
        "{} {} is not supported yet (expected {expected}): choose another model", path.display(), beginning(received)
    )]
    Unsupported {
        /// The file that requires the feature.
        path: PathBuf,
        /// The required feature.
        received: String,
        /// The supported values.
        expected: &'static str,
    },
    /// The weights lack a tensor that the configuration implies, or it has another shape.
    #[error(
        "the weights do not fit config.json: tensor `{tensor}` expected {expected}, received {received}; \
         both must come from the same model, fetch the folder again"
    )]
    WeightMismatch {
        /// The name of the tensor in the weights file.
        tensor: String,
        /// The expected shape.
        expected: String,
        /// The shape in the file, or none.
        received: String,
    },
    /// A setting has an invalid value.
    #[error("{variable}={received} is not usable: expected {expected}")]
    InvalidSetting {
        /// The name of the environment variable.
        variable: &'static str,
        /// The received value.
        received: String,
        /// The allowed values.
        expected: String,
    },
    /// The text could not be tokenized.
    #[error("the text could not be tokenized: {reason}")]
    Tokenize {
        /// The message of the tokenizer.
        reason: String,
    },
    /// The tokens were made for another model.
    #[error(
        "tokens do not fit the model: {what} expected {expected}, received {received}; use its own tokenizer"
    )]
    ForeignTokens {
        /// The property that does not fit: length or id.
        what: &'static str,
        /// The values that the model accepts.
        expected: String,
        /// The received value.
        received: String,
    },
    /// The model computed a vector that cannot be normalised.
    #[error(
        "the model made an unusable vector of this text: expected a finite, non-zero one, received {received}"
    )]
    UnusableVector {
        /// The computed values: zeros or not finite.
        received: &'static str,
    },
    /// An operation of libtorch failed, and with it the whole batch.
    #[error("libtorch failed while {doing}: {reason}")]
    Torch {
        /// The operation, as a gerund.
        doing: &'static str,
        /// The first line of libtorch's report.
        reason: String,
    },
}

/// The most of a file's content that a message quotes, in characters.
const LONGEST_QUOTE: usize = 300;

/// The first line of what a file or a library says, shortened.
pub(super) fn beginning(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// Advice only: the service itself fetches nothing, so its behaviour does not depend on network access.
fn way_to(spec: &str) -> String {
    match folder_name(spec) {
        Some(_) => format!("fetch it with `lnsp model pull {spec}`, or give the path of a folder"),
        None => {
            "give the path of a folder in Hugging Face layout, or a name (see `lnsp model list`)".to_owned()
        }
    }
}

impl EncodeError {
    /// Shorthand for [`EncodeError::BadFile`].
    pub(super) fn bad_file(path: &Path, reason: String) -> Self {
        EncodeError::BadFile { path: path.to_owned(), reason }
    }
}

/// Adds the failed operation to an error of libtorch.
pub(super) trait Doing<T> {
    /// Keeps the first line of libtorch's report, which is a page with a C++ stack trace.
    fn doing(self, doing: &'static str) -> Result<T, EncodeError>;
}

impl<T> Doing<T> for Result<T, tch::TchError> {
    fn doing(self, doing: &'static str) -> Result<T, EncodeError> {
        self.map_err(|error| {
            let report = error.to_string();
            let reason = report.lines().next().unwrap_or_default().to_owned();
            EncodeError::Torch { doing, reason }
        })
    }
}
