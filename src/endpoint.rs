//! Calls to another HTTP server: its base address and a client. The address comes from the operator's configuration,
//! never from a request. The client uses no proxy, which would see the texts, follows no redirect, and limits the size
//! of responses. A leaf: imports no other module of the service.

mod api_key;
mod list;
mod tls;

pub use api_key::{ApiKey, InvalidApiKey};
pub use list::{EndpointList, InvalidList, ListedServer};
pub use tls::certificate_problem;

use reqwest::{Client, ClientBuilder, Response, Url, redirect};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use url::Host;

/// The time limit for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP base address without a trailing slash, such as `http://localhost:11434`. Of the text `localhost:11434` it is
/// the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

/// The text is no valid [`Endpoint`]; the message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEndpoint(&'static str);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, InvalidEndpoint> {
        let base = text.trim().trim_end_matches('/');
        let base = if is_host_and_port(base) { format!("http://{base}") } else { base.to_owned() };
        let url = Url::parse(&base).ok().filter(Url::has_host);
        let url = url.ok_or(InvalidEndpoint("a base address like http://localhost:11434"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidEndpoint("an address that begins with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint("an address without user name and password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint("a base address without ? and #"));
        }
        // The scheme and the host are the same in any case; as given, the rest is kept.
        let scheme = url.scheme();
        let base = match base.get(..scheme.len()) {
            Some(given) if given != scheme => format!("{scheme}{}", &base[scheme.len()..]),
            _ => base,
        };
        Ok(Endpoint(base))
    }
}

/// Whether the text is `host:port`, or begins so: an address whose scheme is left out.
fn is_host_and_port(text: &str) -> bool {
    let authority = text.split('/').next().unwrap_or_default();
    authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Endpoint {
    /// The URL of `path`, which begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// The address without its scheme: the name of the server in metrics.
    pub fn name(&self) -> &str {
        self.0.split_once("://").map_or(self.0.as_str(), |(_, name)| name)
    }

    /// Whether calls go over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether calls leave this machine without TLS, for all on the way to read.
    pub fn is_exposed(&self) -> bool {
        let url = Url::parse(&self.0).ok();
        let local = match url.as_ref().and_then(Url::host) {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        !self.is_https() && !local
    }
}

/// Builds a client for `endpoint` that keeps up to `idle` idle connections. The certificates of authorities are read
/// only where they are needed.
///
/// # Errors
/// The message of the client builder.
pub fn client(idle: usize, endpoint: &Endpoint) -> Result<Client, String> {
    if !endpoint.is_https() {
        return plain_client(idle);
    }
    build(idle, client_builder().tls_backend_preconfigured(tls::config()))
}

/// Builds a client that makes no call over TLS and keeps up to `idle` idle connections.
///
/// # Errors
/// The message of the client builder.
pub fn plain_client(idle: usize) -> Result<Client, String> {
    build(idle, client_builder())
}

/// The builder of clients that make no call over TLS, with no proxy and no redirects. Every client begins with it or
/// with [`client`]: without a TLS configuration the library would look for a provider, and there is none for the whole
/// process.
pub fn client_builder() -> ClientBuilder {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none());
    client.tls_backend_preconfigured(tls::without_authorities())
}

fn build(idle: usize, client: ClientBuilder) -> Result<Client, String> {
    let client = client.connect_timeout(CONNECT_TIMEOUT).pool_max_idle_per_host(idle);
    client.build().map_err(|error| cause(&error))
}

/// Why a response body was not read to its end.
#[derive(Debug)]
pub enum Unread {
    /// The body is longer than the limit.
    TooLong,
    /// The connection broke before the end of the body.
    Broken(reqwest::Error),
}

/// Reads the whole body of a response, at most `limit` bytes.
///
/// # Errors
/// [`Unread::TooLong`] beyond `limit`, [`Unread::Broken`] when the connection ends early.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + piece.len() > limit {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The message of the innermost error. The outer ones repeat the address, which the caller's message already names.
pub fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The first 120 characters of text from another server, made safe for a log line: one line, no control characters.
pub fn beginning(text: &str) -> String {
    const LONGEST: usize = 120;
    let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain: String = plain.chars().filter(|c| !c.is_control()).collect();
    match plain.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
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
        for (short, long) in [
            ("localhost:11434", "http://localhost:11434"),
            ("192.168.0.7:80/", "http://192.168.0.7:80"),
            ("[::1]:8767", "http://[::1]:8767"),
            ("gate:8080/ollama", "http://gate:8080/ollama"),
        ] {
            assert_eq!(short.parse::<Endpoint>().unwrap().to_string(), long);
        }
        let far: Endpoint = "HTTPS://API.example/v1/".parse().unwrap();
        assert!(far.is_https() && !far.is_exposed(), "{far}");
        for (address, exposed) in [
            ("localhost:1", false),
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("10.0.0.7:1", true),
            ("gate:1", true),
        ] {
            assert_eq!(address.parse::<Endpoint>().unwrap().is_exposed(), exposed, "{address}");
        }
        for (wrong, why) in [
            ("", "base address"),
            ("11434", "base address"),
            (":11434", "base address"),
            ("localhost", "base address"),
            ("localhost:http", "base address"),
            ("localhost:70000", "base address"),
            ("me:secret@localhost:11434", "password"),
            ("ftp://localhost", "http://"),
            ("http://me:secret@localhost", "password"),
            ("http://localhost?x=1", "without ?"),
        ] {
            let error = wrong.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
    #[test]
    fn foreign_text_is_short_and_plain_in_a_sentence() {
        assert_eq!(beginning("<html>\r\n\t<b>\u{1b}[31mBad</b>"), "<html> <b>[31mBad</b>");
        assert_eq!(beginning(&"ä".repeat(500)).chars().count(), 123);
    }
}
