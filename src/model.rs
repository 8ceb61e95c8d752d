//! Which model made a vector, and what models are called. Pure.

use std::fmt;

/// Which vectors a model makes. Vectors of different identities are never compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The name of its folder.
    pub name: String,
    /// What is done with a text besides applying the weights.
    pub recipe: String,
    /// blake3 of recipe, weights and tokenizer, in hex.
    pub fingerprint: String,
    /// The length of its vectors.
    pub dims: usize,
}

/// For people: the fingerprint is shortened.
impl fmt::Display for ModelIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print: String = self.fingerprint.chars().take(12).collect();
        write!(f, "{} ({}, {} dimensions, {print})", self.name, self.recipe, self.dims)
    }
}

/// A model on a hub: `owner/name`, or `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`
    pub repository: String,
    /// A branch, a tag or a commit; `main` where none is given.
    pub revision: String,
}

impl HubId {
    /// `None` for what is no such name: a path, a name without an owner.
    pub fn parse(text: &str) -> Option<HubId> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repository.split_once('/')?;
        // Two hyphens stand for the slash in a folder's name, so they are in no other place.
        let usable = |part: &str| is_word(part) && !part.contains("--");
        let known = usable(owner) && usable(name) && revision.split('/').all(is_word);
        known.then(|| HubId { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

/// As it is written.
impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// What can be a part of a path and mean nothing but itself.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(plain)
}

/// What the folder of a model that is not yet whole has behind its name.
pub const UNFINISHED: &str = ".part";

/// The folder that a model of this name has among others: the name itself; for a [`HubId`] the same with hyphens, two
/// for each slash. `None` for a path.
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
