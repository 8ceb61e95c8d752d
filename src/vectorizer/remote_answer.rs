//! The answer of an embedding server to `POST /embed`: a vector per text. A text without a usable vector does not affect
//! the others.

use super::remote_error::RemoteError;
use crate::encoder::{EncodeError, Vector, length};
use crate::endpoint::beginning;
use crate::model::ModelIdentity;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct EmbedResponse {
    /// Some servers have no vector for a text. Many write a number that is not finite as null, because JSON has no
    /// other way.
    embeddings: Vec<Option<Vec<Option<f32>>>>,
    /// The name of the encoder, if the server tells it with each answer.
    #[serde(default)]
    pub encoder: Option<String>,
}

/// Parses a response. Python writes `NaN` and `Infinity`, which are no JSON, and numbers can be too large for a value of
/// a vector; all these are read as null.
///
/// # Errors
/// [`RemoteError::Foreign`] with the beginning of the response.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(path: &'static str, body: &[u8]) -> Result<T, RemoteError> {
    let parsed = serde_json::from_slice(body).or_else(|_| serde_json::from_slice(&with_nulls(body)));
    parsed.map_err(|_| RemoteError::Foreign {
        path,
        said: beginning(&String::from_utf8_lossy(&body[..body.len().min(1024)])),
    })
}

/// A copy of `json` with `null` in the place of every number that is not finite as an `f32`.
fn with_nulls(json: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(&first) = rest.first() {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let length = match first {
            b'"' => string_length(rest),
            word if is_word(word) => rest.iter().take_while(|&&byte| is_word(byte)).count(),
            _ => 1,
        };
        let (token, after) = rest.split_at(length);
        let number = std::str::from_utf8(token).ok().and_then(|token| token.parse::<f32>().ok());
        let finite = number.is_none_or(f32::is_finite);
        copy.extend_from_slice(if finite { token } else { b"null" });
        rest = after;
    }
    copy
}

/// The bytes of the string at the beginning of `json`, with its quotes.
fn string_length(json: &[u8]) -> usize {
    let mut escaped = false;
    let end = json.iter().skip(1).position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Checks the model and the number of vectors of a response, and normalises the vectors. `encoder` is the name that the
/// server gave at the start.
///
/// # Errors
/// [`RemoteError`] if the response as a whole is wrong: of another encoder, with another number of vectors, or with
/// none of the right dimensions.
pub(super) fn vectors(
    answer: EmbedResponse,
    texts: usize,
    identity: &ModelIdentity,
    encoder: &str,
) -> Result<Vec<Vector>, RemoteError> {
    if let Some(received) = answer.encoder.filter(|received| received != encoder) {
        let (expected, received) = (encoder.to_owned(), beginning(&received));
        return Err(RemoteError::OtherModel { what: "encoder", expected, received });
    }
    let (expected, received) = (texts, answer.embeddings.len());
    if received != expected {
        return Err(RemoteError::Count { expected, received });
    }
    let lengths = answer.embeddings.iter().map(|vector| vector.as_ref().map_or(0, Vec::len));
    let expected = identity.dims;
    if let Some(received) = lengths.clone().next()
        && lengths.clone().all(|length| length != expected)
    {
        return Err(RemoteError::Dimensions { expected, received });
    }
    let usable = |vector: Option<Vec<Option<f32>>>| match vector {
        None => Err(EncodeError::UnusableVector { received: "none" }),
        Some(vector) if vector.len() != expected => {
            Err(EncodeError::UnusableVector { received: "one of another length" })
        }
        Some(vector) => unit(vector),
    };
    Ok(answer.embeddings.into_iter().map(usable).collect())
}

/// Scales a vector to unit length. A vector whose length is within 0.001 of 1 is not changed.
fn unit(numbers: Vec<Option<f32>>) -> Vector {
    const NEARLY: f64 = 1e-3;
    let finite = numbers.into_iter().map(|number| number.unwrap_or(f32::NAN));
    let numbers: Vec<f32> = finite.collect();
    let length = length(&numbers)?;
    if (length - 1.0).abs() <= NEARLY {
        return Ok(numbers.into());
    }
    Ok(numbers.into_iter().map(|x| (f64::from(x) / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_scaled_to_unit_length_and_unusable_ones_rejected() {
        let exact = [0.6, 0.8];
        assert_eq!(*unit(exact.map(Some).into()).unwrap(), exact, "not touched");
        assert_eq!(*unit(vec![Some(3.0), Some(4.0)]).unwrap(), exact);
        for bad in [[Some(1.0), None], [Some(f32::INFINITY), Some(0.0)], [Some(0.0), Some(0.0)]] {
            assert!(matches!(unit(bad.into()), Err(EncodeError::UnusableVector { .. })), "{bad:?}");
        }
    }

    #[test]
    fn numbers_that_json_does_not_have_are_nulls_and_strings_stay() {
        let python = r#"{"NaN": [NaN, -Infinity, Infinity,1e999,1e300,-1e-7], "a \" NaN": "Infinity\\", "n": null, "t": true}"#;
        let json =
            r#"{"NaN": [null, null, null,null,null,-1e-7], "a \" NaN": "Infinity\\", "n": null, "t": true}"#;
        assert_eq!(String::from_utf8(with_nulls(python.as_bytes())).unwrap(), json);
        for broken in ["\"NaN", "\"", "\"\\", "", "NaN\"", "[nul"] {
            assert!(parse::<Vec<u8>>("/embed", broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_text_without_a_usable_vector_does_not_affect_the_others() {
        let identity = ModelIdentity {
            name: "m".to_owned(),
            recipe: String::new(),
            fingerprint: String::new(),
            dims: 2,
        };
        let vectors = |body: &str, texts| {
            let answer = parse::<EmbedResponse>("/embed", body.as_bytes())?;
            vectors(answer, texts, &identity, "e")
        };
        let body = r#"{"embeddings": [[1, 0], null, [1], [NaN, 1], [1e300, 0], [1e999, 0], [], [0, 1]]}"#;
        let usable: Vec<bool> = vectors(body, 8).unwrap().iter().map(Result::is_ok).collect();
        assert_eq!(usable, [true, false, false, false, false, false, false, true]);
        for (body, error) in [
            (r#"{"embeddings": [[1], null]}"#, RemoteError::Dimensions { expected: 2, received: 1 }),
            (r#"{"embeddings": [null, [1]]}"#, RemoteError::Dimensions { expected: 2, received: 0 }),
            (r#"{"embeddings": [[1, 0]]}"#, RemoteError::Count { expected: 2, received: 1 }),
        ] {
            assert_eq!(vectors(body, 2), Err(error), "{body}");
        }
        let other = vectors(r#"{"embeddings": [[1, 0]], "encoder": "f"}"#, 1);
        assert!(matches!(other, Err(RemoteError::OtherModel { what: "encoder", .. })), "{other:?}");
        assert!(vectors(r#"{"embeddings": [[1, 0]], "encoder": "e"}"#, 1).is_ok());
    }
}
