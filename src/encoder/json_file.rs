//! Reads the JSON files of a model folder.

use super::error::{EncodeError, beginning};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Component, Path, PathBuf};

pub(super) const FETCH_AGAIN: &str = "fetch the model again (scripts/setup does), or point to another folder";

/// The error for a file that a model folder must have.
pub(super) fn missing(folder: &Path, file: &str) -> EncodeError {
    EncodeError::MissingFile { folder: folder.to_owned(), file: file.to_owned(), remedy: FETCH_AGAIN }
}

/// The path of what `file` of a model names, relative to `folder`. A model may come from anywhere, and must not make the
/// service read other files. Links are followed: only who made the folder can have put them there, and the cache of
/// Hugging Face consists of links to files beside it.
pub(super) fn inside(folder: &Path, file: &str, named: &str) -> Result<PathBuf, EncodeError> {
    let stays = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(named).components().all(stays) {
        return Ok(folder.join(named));
    }
    let reason = format!(
        "expected paths inside the folder of the model, received `{}`; {FETCH_AGAIN}",
        beginning(named)
    );
    Err(EncodeError::bad_file(&folder.join(file), reason))
}

/// Parses a JSON file; `None` if it does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EncodeError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            EncodeError::bad_file(path, format!("{}; {FETCH_AGAIN}", beginning(&error.to_string())))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EncodeError::bad_file(path, error.to_string())),
    }
}
