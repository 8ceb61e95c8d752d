//! The identity of embedding models, their names on a hub, and their folder names. Pure.

use std::fmt;

/// Identifies the vectors of a model. Vectors of different identities are never compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The name of the model's folder.
    pub name: String,
    /// How a text becomes a vector apart from the weights: pooling, token limit and so on.
    pub recipe: String,
    /// blake3 hash of recipe, weights and tokenizer, in hex.
    pub fingerprint: String,
    /// The number of dimensions of its vectors.
    pub dims: usize,
}

/// For logs and messages, with the first 12 digits of the fingerprint.
impl fmt::Display for ModelIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print: String = self.fingerprint.chars().take(12).collect();
        write!(f, "{} ({}, {} dimensions, {print})", self.name, self.recipe, self.dims)
    }
}

/// A model on a hub: `owner/name`, or `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// The repository as `owner/name`.
    pub repository: String,
    /// A branch, a tag or a commit; `main` by default.
    pub revision: String,
}

impl HubId {
    /// Reads `owner/name` or `owner/name@revision`. `None` for anything else, such as a path.
    pub fn parse(text: &str) -> Option<HubId> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repository.split_once('/')?;
        // Two hyphens replace the slash in folder names, so names must not contain them.
        let usable = |part: &str| is_word(part) && !part.contains("--");
        let known = usable(owner) && usable(name) && revision.split('/').all(is_word);
        known.then(|| HubId { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

/// The text that [`HubId::parse`] reads; `@main` is left out.
impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// Safe as a path component: no separators, not hidden, not `..`.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(plain)
}

/// Suffix of the folder of a model whose download is not complete.
pub const UNFINISHED: &str = ".part";

/// The folder name of a model: its name, with `/` replaced by `--` for a [`HubId`]. `None` for a path, an empty name,
/// and names that end in [`UNFINISHED`].
pub fn folder_name(name: &str) -> Option<String> {
    let folder = match HubId::parse(name) {
        Some(id) => id.to_string().replace('/', "--"),
        None => name.to_owned(),
    };
    let usable = !folder.is_empty() && !folder.contains(['/', '\\']) && !folder.starts_with('.');
    (usable && !folder.ends_with(UNFINISHED)).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_hub_and_their_folders() {
        for (name, folder) in [
            ("all-minilm-l6-v2", Some("all-minilm-l6-v2")),
            ("sentence-transformers/gtr-t5-base", Some("sentence-transformers--gtr-t5-base")),
            ("owner/name@main", Some("owner--name")),
            ("owner/name@refs/pr/1", Some("owner--name@refs--pr--1")),
            ("a/b/c", None),
            ("./folder", None),
            ("/models/folder", None),
            ("owner/..", None),
            ("owner/name@../x", None),
            ("owner/two--hyphens", None),
            ("..", None),
            ("owner/name.part", None),
            ("", None),
        ] {
            assert_eq!(folder_name(name).as_deref(), folder, "{name}");
        }
    }
}
