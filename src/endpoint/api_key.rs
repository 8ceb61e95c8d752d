//! The key that another server wants to be called with.

use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use std::fmt;
use std::str::FromStr;

/// A key, sent as `Authorization: Bearer KEY`. Hidden in debug output; it has no other.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(HeaderValue);

/// The text cannot be sent as a key. The message does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key of printable ASCII characters without blanks")]
pub struct InvalidApiKey;

impl FromStr for ApiKey {
    type Err = InvalidApiKey;

    fn from_str(text: &str) -> Result<ApiKey, InvalidApiKey> {
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidApiKey);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| InvalidApiKey)?;
        // Logs of the HTTP library then leave it out.
        value.set_sensitive(true);
        Ok(ApiKey(value))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ApiKey {
    /// The request with the key.
    pub fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(AUTHORIZATION, self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key: ApiKey = " sk-secret \n".parse().unwrap();
        assert_eq!(format!("{key:?} {:?}", key.0), "*** Sensitive");
        for wrong in ["", " ", "two words", "schlüssel", "a\nb"] {
            let error = wrong.parse::<ApiKey>().unwrap_err().to_string();
            assert!(wrong.trim().is_empty() || !error.contains(wrong.trim()), "{error}");
        }
    }
}
