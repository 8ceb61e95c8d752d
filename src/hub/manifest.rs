//! The files of a pulled model and their source: `lnsp-model.json`.

use super::HubError;
use super::error::At;
use super::hash::Hash;
use crate::files;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs;
use std::path::Path;

/// The file name of the manifest.
pub const MANIFEST: &str = "lnsp-model.json";

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Inside the folder, with slashes.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The hash of the content.
    #[serde(serialize_with = "write_hash", deserialize_with = "read_hash")]
    pub hash: Hash,
}

impl File {
    /// Whether it lies in `folder` as it should.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn is_whole_in(&self, folder: &Path) -> Result<bool, HubError> {
        let path = folder.join(&self.path);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() == self.size => {
                Ok(self.hash.of_file(&path).at(&path)? == self.hash)
            }
            _ => Ok(false),
        }
    }
}

/// Everything about a pulled model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The repository on the hub.
    pub hub_id: String,
    /// The revision that was requested.
    pub revision: String,
    /// The commit of the revision at that time.
    pub commit: String,
    /// The name of the recipe.
    pub recipe: String,
    /// All files besides this one.
    pub files: Vec<File>,
}

impl Manifest {
    /// The manifest of a folder; `None` if it has none that can be read.
    pub fn of(folder: &Path) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
    }

    /// In bytes, without the manifest itself.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), HubError> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other).at(&path)?;
        files::replace(&path, &[&text]).at(&path)
    }
}

fn write_hash<S: Serializer>(hash: &Hash, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(hash)
}

fn read_hash<'de, D: Deserializer<'de>>(input: D) -> Result<Hash, D::Error> {
    String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
}
