//! Where the hub is, and who asks: both from the operator.

use std::fmt;
use std::str::FromStr;
use url::Url;

/// The base address of a hub, like `https://huggingface.co`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

/// What an address has to look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address of the hub is '{received}': expected {expected}")]
pub struct InvalidAddress {
    received: String,
    expected: &'static str,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Address, InvalidAddress> {
        let url = Url::parse(text.trim().trim_end_matches('/')).ok().filter(Url::has_host);
        let web = url.filter(|url| matches!(url.scheme(), "https" | "http"));
        let wrong = |received: &str, expected| InvalidAddress { received: received.to_owned(), expected };
        let url = web.ok_or_else(|| wrong(text, "a base address like https://huggingface.co"))?;
        if !url.username().is_empty() || url.password().is_some() {
            // The address is not repeated: it holds a secret.
            return Err(wrong(
                "...",
                "an address without user name and password (a token goes into HF_TOKEN)",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(text, "a base address without ? and #"));
        }
        Ok(Address(url))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl Address {
    /// The address of something below, by its parts; what is no letter of an address is escaped.
    pub(super) fn at<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.0.clone();
        // Only addresses without a host have no path to go on from, and `parse` has refused those.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Whether an address is on the hub itself.
    pub(super) fn is_home_of(&self, url: &Url) -> bool {
        self.0.origin() == url.origin()
    }
}

/// The token for private models. It is sent to the hub only and never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// `None` if there is nothing in it, or what no header can carry.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        sendable.then(|| Token(text.to_owned()))
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_is_taken_and_everything_else_explained() {
        let hub: Address = " https://mirror.example/hub/ ".parse().unwrap();
        assert_eq!(hub.to_string(), "https://mirror.example/hub");
        let url = hub.at(["owner/name", "a b"]);
        assert_eq!(url.as_str(), "https://mirror.example/hub/owner%2Fname/a%20b");
        assert_eq!("http://h:1".parse::<Address>().unwrap().at(["x"]).as_str(), "http://h:1/x");
        for (wrong, why) in [
            ("", "base address"),
            ("huggingface.co", "base address"),
            ("ftp://h", "base address"),
            ("https://me:geheim@h", "HF_TOKEN"),
            ("https://h?x=1", "without ?"),
        ] {
            let error = wrong.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("geheim"), "{wrong}: {error}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_not_the_hub() {
        let hub: Address = "http://127.0.0.1:80/hub".parse().unwrap();
        let home = |url: &str| hub.is_home_of(&url.parse().unwrap());
        assert!(home("http://127.0.0.1/elsewhere"));
        assert!(
            !home("http://127.0.0.1:81/hub") && !home("https://127.0.0.1:80/hub") && !home("http://h/hub")
        );
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = Token::new(" hf_geheim\n").unwrap();
        assert_eq!((token.secret(), format!("{token:?}").as_str()), ("hf_geheim", "Token"));
        assert!(Token::new(" ").is_none() && Token::new("two words").is_none());
    }
}
