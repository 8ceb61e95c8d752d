//! The models that have a short name here, and what is made of their files.

use super::error::HubError;
use crate::model::{HubId, folder_name};

/// What becomes of a repository's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// A folder as it lies on the hub.
    AsItIs,
    /// Only network and pooling, as vec2text wants its vectors: another space than that of the whole model.
    WithoutDense,
}

impl Recipe {
    /// The name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::AsItIs => "as it is",
            Recipe::WithoutDense => "without dense",
        }
    }
}

/// A model with a short name.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which it is called by.
    pub name: &'static str,
    /// Where it lies on the hub.
    pub repository: &'static str,
    /// What becomes of its files.
    pub recipe: Recipe,
}

/// All models with a short name.
pub const CATALOGUE: [Entry; 3] = [
    Entry {
        name: "all-minilm-l6-v2",
        repository: "sentence-transformers/all-MiniLM-L6-v2",
        recipe: Recipe::AsItIs,
    },
    Entry { name: "gtr-t5-base", repository: "sentence-transformers/gtr-t5-base", recipe: Recipe::AsItIs },
    Entry {
        name: "gtr-t5-base-vec2text",
        repository: "sentence-transformers/gtr-t5-base",
        recipe: Recipe::WithoutDense,
    },
];

/// Where a model comes from, and which folder it goes into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// The repository on the hub.
    pub id: HubId,
    /// What becomes of its files.
    pub recipe: Recipe,
    /// The name of its folder among the models.
    pub folder: String,
}

impl ModelSource {
    /// By a name of the catalogue, or the model's own on the hub.
    ///
    /// # Errors
    /// [`HubError::UnknownName`] when it is neither.
    pub fn find(name: &str) -> Result<ModelSource, HubError> {
        let entry = CATALOGUE.iter().find(|entry| entry.name == name);
        let id = HubId::parse(entry.map_or(name, |entry| entry.repository));
        match (id, folder_name(name)) {
            (Some(id), Some(folder)) => {
                Ok(ModelSource { id, recipe: entry.map_or(Recipe::AsItIs, |entry| entry.recipe), folder })
            }
            _ => {
                let known = CATALOGUE.map(|entry| entry.name).join(", ");
                Err(HubError::UnknownName { name: name.to_owned(), known })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_spaces_of_gtr_have_folders_of_their_own() {
        let [whole, bare] =
            ["gtr-t5-base", "gtr-t5-base-vec2text"].map(|name| ModelSource::find(name).unwrap());
        assert_eq!(whole.id, bare.id);
        assert_ne!((whole.folder, whole.recipe), (bare.folder, bare.recipe));
    }

    #[test]
    fn other_names_are_those_of_the_hub() {
        let other = ModelSource::find("owner/name@v2").unwrap();
        assert_eq!((other.id.revision.as_str(), other.folder.as_str()), ("v2", "owner--name@v2"));
        let sentence = ModelSource::find("gtr-t5-bass").unwrap_err().to_string();
        assert!(sentence.contains("gtr-t5-base-vec2text") && sentence.contains("owner/name"), "{sentence}");
    }
}
