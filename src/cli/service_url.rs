//! The address of a service, checked before anything is sent to it.

use std::fmt;
use std::str::FromStr;
use url::Url;

/// Where a service is, without a slash at its end: `http://127.0.0.1:8004`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl(String);

/// An address to which no request can go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServiceUrl {
    /// There is no scheme, or one that is none: `localhost:8004` has the scheme `localhost`.
    #[error("the address of the service is '{0}': expected one with a scheme, like http://127.0.0.1:8004")]
    Scheme(String),
    /// The commands of this program do not speak TLS.
    #[error(
        "the address of the service is '{0}': expected http://. This command speaks no TLS: reach the service over a \
         tunnel, like ssh -L 8004:localhost:8004 HOST, and name http://127.0.0.1:8004"
    )]
    Tls(String),
    /// The service asks for none, and they would stand in messages.
    #[error(
        "the address of the service has a user name or a password: expected one like http://127.0.0.1:8004"
    )]
    Credentials,
    /// Something else is wrong with it.
    #[error("the address of the service is '{0}': {1}; expected one like http://127.0.0.1:8004")]
    Malformed(String, String),
}

impl ServiceUrl {
    /// The address of `path`, which begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceUrl {
    type Err = InvalidServiceUrl;

    fn from_str(text: &str) -> Result<Self, InvalidServiceUrl> {
        let trimmed = text.trim();
        let malformed = |why: &str| InvalidServiceUrl::Malformed(text.to_owned(), why.to_owned());
        let Some((scheme, _)) = trimmed.split_once("://") else {
            return Err(InvalidServiceUrl::Scheme(text.to_owned()));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(InvalidServiceUrl::Tls(text.to_owned())),
            _ => return Err(InvalidServiceUrl::Scheme(text.to_owned())),
        }
        let url = Url::parse(trimmed).map_err(|error| malformed(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not quoted: it may be on the screen of others.
            return Err(InvalidServiceUrl::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(malformed("it has a query or a fragment"));
        }
        Ok(ServiceUrl(trimmed.trim_end_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_work_is_refused_with_what_to_write() {
        for good in
            ["http://127.0.0.1:8004", "http://[::1]:8004", "http://host/behind/a/proxy", "HTTP://host"]
        {
            assert_eq!(good.parse::<ServiceUrl>().unwrap().0, good);
        }
        assert_eq!(" http://host:1// ".parse::<ServiceUrl>().unwrap().0, "http://host:1");
        for (wrong, words) in [
            ("localhost:8004", "with a scheme"),
            ("127.0.0.1", "with a scheme"),
            ("ftp://host", "with a scheme"),
            ("", "with a scheme"),
            ("https://host", "speaks no TLS"),
            ("http://", "empty host"),
            ("http://host:99999", "invalid port"),
            ("http://host?x=1", "a query"),
            ("http://me:secret@host", "a password"),
        ] {
            let error = wrong.parse::<ServiceUrl>().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("http://127.0.0.1:8004"), "{wrong}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
