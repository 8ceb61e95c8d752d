//! Which model made a vector. Pure.

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
