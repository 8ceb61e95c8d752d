//! Where a language model is asked: a base address from the operator's configuration, never from a request.

use reqwest::Url;
use std::fmt;
use std::str::FromStr;

/// A base address like `http://localhost:11434`, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

/// What an endpoint has to look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEndpoint(&'static str);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, InvalidEndpoint> {
        let base = text.trim().trim_end_matches('/');
        let url = Url::parse(base).ok().filter(Url::has_host);
        let url = url.ok_or(InvalidEndpoint("a base address like http://localhost:11434"))?;
        if url.scheme() != "http" {
            return Err(InvalidEndpoint(
                "an address that begins with http:// (there is no TLS to the LLM yet)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint("an address without user name and password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint("a base address without ? and #"));
        }
        Ok(Endpoint(base.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Endpoint {
    /// The address of a call: `path` begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_is_taken_and_everything_else_explained() {
        let endpoint: Endpoint = " http://localhost:11434/ ".parse().unwrap();
        assert_eq!(endpoint.at("/api/tags"), "http://localhost:11434/api/tags");
        assert_eq!("http://gate/ollama".parse::<Endpoint>().unwrap().at("/x"), "http://gate/ollama/x");
        for (wrong, why) in [
            ("", "base address"),
            ("localhost:11434", "base address"),
            ("11434", "base address"),
            ("https://localhost", "TLS"),
            ("ftp://localhost", "http://"),
            ("http://me:secret@localhost", "password"),
            ("http://localhost?x=1", "without ?"),
        ] {
            let error = wrong.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
