//! The folders of the indexes: one pair for each model of a store.
//!
//! The folders without a fingerprint in their names belong to the first model, so that its indexes stay where they are; a
//! file in each says which model that is.

use crate::files;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Says whose vectors an index holds.
const OWNER: &str = "MODEL";
/// The characters of a fingerprint in the name of a folder.
const IN_NAME: usize = 8;

/// The folder of an index in the data folder. `base` is `index` or `index-questions`. Where no file says whose the folder
/// of this name is, it belongs to the model in use.
pub(super) fn index_folder(
    data_dir: &Path,
    base: &str,
    fingerprint: &str,
    in_use: bool,
) -> io::Result<PathBuf> {
    let first = data_dir.join(base);
    let is_first = match fs::read_to_string(first.join(OWNER)) {
        Ok(owner) => owner.trim_end() == fingerprint,
        Err(error) if error.kind() == ErrorKind::NotFound => in_use,
        Err(error) => return Err(error),
    };
    if is_first {
        return Ok(first);
    }
    let short: String = fingerprint.chars().filter(char::is_ascii_alphanumeric).take(IN_NAME).collect();
    Ok(data_dir.join(format!("{base}-{short}")))
}

/// Notes whose vectors the index in this folder holds.
pub(super) fn claim(folder: &Path, fingerprint: &str) -> io::Result<()> {
    files::replace(&folder.join(OWNER), &[fingerprint.as_bytes(), b"\n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_model_keeps_the_folder_without_a_name() {
        let data = tempfile::tempdir().unwrap();
        let folder = |fingerprint, in_use| {
            let folder = index_folder(data.path(), "index", fingerprint, in_use).unwrap();
            folder.file_name().unwrap().to_str().unwrap().to_owned()
        };
        // An earlier version has left no file.
        assert_eq!(folder("aaaaaaaaaaaa", true), "index");
        assert_eq!(folder("bbbbbbbbbbbb", false), "index-bbbbbbbb");
        fs::create_dir(data.path().join("index")).unwrap();
        claim(&data.path().join("index"), "aaaaaaaaaaaa").unwrap();
        assert_eq!(folder("bbbbbbbbbbbb", true), "index-bbbbbbbb");
        assert_eq!(folder("aaaaaaaaaaaa", false), "index");
        assert_eq!(folder("re/mo te", true), "index-remote");
    }
}
