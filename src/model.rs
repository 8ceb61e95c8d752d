//! Which model made a vector. Pure.

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
