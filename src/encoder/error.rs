//! What can go wrong with a model, and what to do about it.

use crate::model::folder_name;
use std::path::{Path, PathBuf};

/// Each variant is one sentence for the person who started the service or sent the text. Cheap to clone, because
/// the failure of a whole batch is the answer to each of its texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The name is neither a folder nor in the catalogue.
    #[error(
        "model `{spec}` not found: expected a local model folder or a name found in one of [{searched}]; {}",
        way_to(spec)
    )]
    UnknownModel {
        /// As it was given.
        spec: String,
        /// The folders that were tried.
        searched: String,
    },
    /// A model folder lacks a file.
    #[error("model folder {} has no {file}: {remedy}", folder.display())]
    MissingFile {
        /// The model folder.
        folder: PathBuf,
        /// What was looked for.
        file: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of the model is there but cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The model asks for something this version does not do.
    #[error("{} {received} is not supported yet (expected {expected}): choose another model", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for.
        received: String,
        /// What would work.
        expected: &'static str,
    },
    /// The weights do not have the tensor that the configuration promises.
    #[error(
        "the weights do not fit config.json: tensor `{tensor}` expected {expected}, received {received}; \
         both must come from the same model, fetch the folder again"
    )]
    WeightMismatch {
        /// The name in the weights file.
        tensor: String,
        /// What the configuration implies.
        expected: String,
        /// What the file holds.
        received: String,
    },
    /// A setting has a value outside its list.
    #[error("{variable}={received} is not usable: expected {expected}")]
    InvalidSetting {
        /// The name of the variable.
        variable: &'static str,
        /// Its value.
        received: String,
        /// What is allowed.
        expected: String,
    },
    /// The text could not be tokenized.
    #[error("the text could not be tokenized: {reason}")]
    Tokenize {
        /// What the tokenizer said.
        reason: String,
    },
    /// The tokens are not for this model.
    #[error(
        "tokens do not fit the model: {what} expected {expected}, received {received}; use its own tokenizer"
    )]
    ForeignTokens {
        /// Length or id.
        what: &'static str,
        /// What the model takes.
        expected: String,
        /// What came.
        received: String,
    },
    /// The model gave something that has no direction.
    #[error(
        "the model made an unusable vector of this text: expected a finite, non-zero one, received {received}"
    )]
    UnusableVector {
        /// What came out.
        received: &'static str,
    },
    /// libtorch refused an operation: the whole batch failed.
    #[error("libtorch failed while {doing}: {reason}")]
    Torch {
        /// The step.
        doing: &'static str,
        /// The first line of its report.
        reason: String,
    },
}

/// A service does not fetch what it lacks: a machine that comes online must not change what it does.
fn way_to(spec: &str) -> String {
    match folder_name(spec) {
        Some(_) => format!("fetch it with `lnsp model pull {spec}`, or give the path of a folder"),
        None => {
            "give the path of a folder in Hugging Face layout, or a name (see `lnsp model list`)".to_owned()
        }
    }
}

impl EncodeError {
    /// A file that is there but cannot be used.
    pub(super) fn bad_file(path: &Path, reason: String) -> Self {
        EncodeError::BadFile { path: path.to_owned(), reason }
    }
}

/// Says what was being done when libtorch failed.
pub(super) trait Doing<T> {
    /// Turns libtorch's report (a page, with a C++ stack) into one line.
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
