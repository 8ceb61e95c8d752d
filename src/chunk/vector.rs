//! The vector of a chunk: made here or sent with it, and how vectors are written in JSON.

use crate::error_code::ErrorCode;
use crate::model::ModelIdentity;
use crate::rejection::Rejection;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use std::time::Duration;

/// How far the length of a given vector may be from 1. Models give unit vectors to within rounding.
const LENGTH_TOLERANCE: f32 = 1e-3;

/// A vector and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The vector: unit length, all values finite.
    pub vector: Arc<[f32]>,
    /// The text was longer than the model reads, so the vector is that of its beginning.
    pub truncated: bool,
    /// The share of characters that the model does not know, if it is above one half, so that the vector says little
    /// about the text. `None` also for an embedding server, which does not tell.
    pub unread: Option<f32>,
    /// Duration of the forward pass, which other texts shared.
    pub took: Duration,
}

/// Where the vector of a chunk comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum VectorSource {
    /// The text is embedded.
    #[default]
    Text,
    /// The client sent the vector of another model than that of the store: the text is embedded.
    OtherModel,
    /// The client sent the vector, and it is of the store's model.
    Given {
        /// The fingerprint of the model.
        model: Arc<str>,
        /// The vector, as an earlier pass of the model gave it.
        embedding: Embedding,
    },
}

impl VectorSource {
    /// Checks a vector that a client sent as one of `model`, for a store of the model `store`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidVector`] for a vector of the store's model that it cannot have made.
    pub fn given(
        model: &str,
        vector: Vec<f32>,
        flags: (bool, Option<f32>),
        store: &ModelIdentity,
    ) -> Result<VectorSource, Rejection> {
        if model != store.fingerprint {
            return Ok(VectorSource::OtherModel);
        }
        let (truncated, unread) = flags;
        let invalid = |message| Err(Rejection::new(ErrorCode::InvalidVector, message).param("vector"));
        if vector.len() != store.dims {
            return invalid(format!("vector: expected {} numbers, received {}", store.dims, vector.len()));
        }
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !length.is_finite() || (length - 1.0).abs() > LENGTH_TOLERANCE {
            return invalid(format!("vector: expected finite numbers of length 1, received length {length}"));
        }
        if let Some(share) = unread.filter(|share| !(*share > 0.5 && *share <= 1.0)) {
            let message = format!("vector_unread: expected above 0.5 and at most 1, received {share}");
            return Err(Rejection::new(ErrorCode::InvalidVector, message).param("vector_unread"));
        }
        let embedding = Embedding { vector: vector.into(), truncated, unread, took: Duration::ZERO };
        Ok(VectorSource::Given { model: model.into(), embedding })
    }

    /// The bytes of a vector that was sent.
    pub fn bytes(&self) -> usize {
        match self {
            VectorSource::Given { model, embedding } => model.len() + size_of_val(&*embedding.vector),
            VectorSource::Text | VectorSource::OtherModel => 0,
        }
    }
}

/// How vectors are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EncodingFormat {
    /// A list of numbers, each the shortest that reads back as the same f32.
    #[default]
    Float,
    /// The bytes of little-endian f32 in base64.
    Base64,
}

/// A vector as base64 of little-endian f32.
pub fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// The inverse of [`base64_of`]. `None` for text that is no base64 of whole f32.
pub fn floats_of_base64(text: &str) -> Option<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok()?;
    let (parts, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| parts.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> ModelIdentity {
        let text = |text: &str| text.to_owned();
        ModelIdentity { name: text("m"), recipe: text("r"), fingerprint: text("f"), dims: 4 }
    }

    #[test]
    fn only_a_vector_that_the_model_can_have_made_is_taken() {
        let given = |model: &str, vector: &[f32], unread| {
            VectorSource::given(model, vector.to_vec(), (false, unread), &store())
                .map_err(|error| error.param)
        };
        let unit = [0.5, 0.5, -0.5, 0.5];
        let VectorSource::Given { embedding, .. } = given("f", &unit, Some(0.75)).unwrap() else { panic!() };
        assert_eq!((&embedding.vector[..], embedding.unread), (&unit[..], Some(0.75)));
        assert_eq!(given("other", &[1.0], None), Ok(VectorSource::OtherModel));
        for wrong in
            [&[1.0][..], &[0.0; 4], &[2.0, 0.0, 0.0, 0.0], &[f32::NAN, 0.0, 0.0, 1.0], &[f32::MAX; 4]]
        {
            assert_eq!(given("f", wrong, None), Err(Some("vector")), "{wrong:?}");
        }
        assert_eq!(given("f", &unit, Some(0.5)), Err(Some("vector_unread")));
    }

    #[test]
    fn base64_gives_the_same_bits() {
        let vector = [0.1, -0.0, f32::MIN_POSITIVE / 3.0, 1e38, 0.333_333_34];
        let again = floats_of_base64(&base64_of(&vector)).unwrap();
        assert!(vector.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!([floats_of_base64("AAA="), floats_of_base64("*")], [None, None]);
    }
}
