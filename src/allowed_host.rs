//! The hosts that requests may name in `Host`, as `LNSP_ALLOWED_HOSTS` lists them. A leaf: imports no other module of the
//! service.

use actix_web::http::uri::Authority;
use std::str::FromStr;

/// An entry of `LNSP_ALLOWED_HOSTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHost {
    /// `*`: every host.
    Any,
    /// A host, in lower case, on one port or on every port.
    Host {
        /// The name, or an address; that of IPv6 in brackets.
        host: String,
        /// The only allowed port.
        port: Option<u16>,
    },
}

/// The text is no [`AllowedHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "hosts like lnsp.example or lnsp.example:8443, separated by commas, without http://, path and spaces, or * for all"
)]
pub struct InvalidHost;

impl FromStr for AllowedHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<AllowedHost, InvalidHost> {
        if text == "*" {
            return Ok(AllowedHost::Any);
        }
        let authority = text.parse::<Authority>().map_err(|_| InvalidHost)?;
        let host = lower(authority.host());
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_address = host.strip_prefix('[').is_some_and(|rest| rest.ends_with(']'));
        let usable = !host.is_empty() && (is_address || host.bytes().all(named)) && !text.contains('@');
        // A port that is none is left out of what was parsed.
        let port = authority.port_u16();
        if !usable || (port.is_none() && text.len() != authority.host().len()) {
            return Err(InvalidHost);
        }
        Ok(AllowedHost::Host { host, port })
    }
}

impl AllowedHost {
    /// Whether it is the host that a request names.
    pub fn allows(&self, authority: &Authority) -> bool {
        match self {
            AllowedHost::Any => true,
            AllowedHost::Host { host, port } => {
                *host == lower(authority.host()) && port.is_none_or(|port| authority.port_u16() == Some(port))
            }
        }
    }
}

/// A host without its final dot, in lower case.
pub fn lower(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_host_or_a_host_with_a_port() {
        let host = |host: &str, port| Ok(AllowedHost::Host { host: host.to_owned(), port });
        for (text, expected) in [
            ("Lnsp.Example", host("lnsp.example", None)),
            ("lnsp.example.", host("lnsp.example", None)),
            ("my_box:8443", host("my_box", Some(8443))),
            ("10.0.0.7", host("10.0.0.7", None)),
            ("[fd00::7]:80", host("[fd00::7]", Some(80))),
            ("*", Ok(AllowedHost::Any)),
        ] {
            assert_eq!(text.parse::<AllowedHost>(), expected, "{text}");
        }
        for wrong in [
            "",
            " ",
            " lnsp.example",
            "lnsp example",
            "https://lnsp.example",
            "lnsp.example/",
            "lnsp.example/search",
            "lnsp.example:",
            "lnsp.example:https",
            "lnsp.example:70000",
            "me@lnsp.example",
            "*.lnsp.example",
            "lnsp.example?x",
            "fd00::7",
            "[fd00::7",
            ":80",
        ] {
            assert_eq!(wrong.parse::<AllowedHost>(), Err(InvalidHost), "{wrong}");
        }
    }
}
