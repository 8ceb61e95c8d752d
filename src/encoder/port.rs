//! The port: what the service needs of a model.

use super::error::EncodeError;
use super::tokens::Tokens;
use crate::model::ModelIdentity;
use std::sync::Arc;

/// A vector of unit length, or the error of this one text.
pub type Vector = Result<Arc<[f32]>, EncodeError>;

/// A model in memory. It stays on the thread that built it.
pub trait Encoder {
    /// Name, recipe and fingerprint of the model.
    fn identity(&self) -> &ModelIdentity;

    /// The number of dimensions of its vectors.
    fn dims(&self) -> usize;

    /// Computes one vector per text in one pass, in the order of `texts`. The caller limits the size of a pass
    /// ([`super::plan::choose`]).
    ///
    /// # Errors
    /// The outer error means that the whole pass failed; it says nothing about a single text. A text that cannot be
    /// encoded has its own inner error and does not affect the others.
    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Vector>, EncodeError>;
}

/// The Euclidean length of a vector, above 0.
///
/// # Errors
/// [`EncodeError::UnusableVector`] if a value is not finite, or all are so small that the vector has no direction.
pub fn length(values: &[f32]) -> Result<f64, EncodeError> {
    let length = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return Err(EncodeError::UnusableVector { received: "values that are not finite" });
    }
    if length < f64::from(f32::MIN_POSITIVE) {
        return Err(EncodeError::UnusableVector { received: "zeros" });
    }
    Ok(length)
}
