//! Which requests a browser may have been made to send by a foreign page, and are therefore refused.
//!
//! A page can let a browser call a service that only listens on loopback: by a name of its own that it resolves to
//! 127.0.0.1 (DNS rebinding), or by a form or a script that needs no permission of the service. The first has a foreign
//! `Host`, the second a foreign `Origin` or `Sec-Fetch-Site`. Programs send neither.

use crate::allowed_host::{AllowedHost, lower};
use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::request::header_text;
use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName};
use actix_web::http::uri::Authority;
use std::net::{IpAddr, SocketAddr};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The hosts that a request may name.
#[derive(Debug, Clone)]
pub enum AllowedHosts {
    /// Every host is allowed.
    All,
    /// Loopback addresses, `localhost`, and these.
    Loopback(Vec<AllowedHost>),
}

impl AllowedHosts {
    /// The hosts of a service that listens on `address`: only those of loopback and `more` if it is a loopback address,
    /// else all.
    pub fn new(address: SocketAddr, more: &[AllowedHost]) -> AllowedHosts {
        match address.ip().is_loopback() {
            true => AllowedHosts::Loopback(more.to_vec()),
            false => AllowedHosts::All,
        }
    }

    fn allow(&self, host: &str) -> bool {
        let AllowedHosts::Loopback(more) = self else { return true };
        if more.contains(&AllowedHost::Any) {
            return true;
        }
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = lower(authority.host());
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
            || more.iter().any(|allowed| allowed.allows(&authority))
    }
}

/// Checks where a request comes from.
///
/// # Errors
/// 403 for a host that is not allowed, and for a request from another site that could change something.
pub fn check(head: &RequestHead, allowed: &AllowedHosts) -> Result<(), ApiError> {
    let mut hosts = head.headers.get_all(header::HOST);
    // HTTP/1.0 needs no host. The host of an absolute address counts more than the header.
    let named = hosts.next().map(|host| host.to_str().unwrap_or("unreadable"));
    let absolute = head.uri.authority().map(Authority::as_str);
    for host in named.into_iter().chain(absolute) {
        if !allowed.allow(host) || hosts.next().is_some() {
            let message = "the request names a host that this service does not serve, and it listens on loopback only; \
                           use localhost, or list the host in LNSP_ALLOWED_HOSTS";
            return Err(ApiError::new(ErrorCode::HostNotAllowed, message));
        }
    }
    if head.method == Method::GET || head.method == Method::HEAD {
        return Ok(());
    }
    let foreign_site = header_text(&head.headers, &SEC_FETCH_SITE)
        .is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let foreign_origin = header_text(&head.headers, &header::ORIGIN).is_some_and(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_none() || host != named
    });
    if foreign_site || foreign_origin {
        let message = "a page of another site made the browser send this request; call the service from a program, or \
                       from a page that it serves itself";
        return Err(ApiError::new(ErrorCode::CrossSite, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn loopback() -> AllowedHosts {
        let more = ["lnsp.example", "gate.example:8443"].map(|host| host.parse().unwrap());
        AllowedHosts::new(([127, 0, 0, 1], 8004).into(), &more)
    }

    fn code(method: Method, headers: &[(&'static str, &'static str)]) -> Option<ErrorCode> {
        let mut request = TestRequest::default().method(method);
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let request = request.to_http_request();
        check(request.head(), &loopback()).err().map(|error| error.code())
    }

    #[test]
    fn on_loopback_only_names_of_loopback_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:8004",
            "localhost.",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:8004",
            "a.localhost",
            "lnsp.example:8004",
            "LNSP.example",
            "lnsp.example.",
            "gate.example:8443",
        ] {
            assert_eq!(code(Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "evil@x",
            "",
            "[::2]",
            "lnsp.example.evil",
            "gate.example",
            "gate.example:443",
        ] {
            assert_eq!(code(Method::GET, &[("host", host)]), Some(ErrorCode::HostNotAllowed), "{host}");
        }
        assert_eq!(code(Method::GET, &[]), None);
        let public = AllowedHosts::new(([0, 0, 0, 0], 8004).into(), &[]);
        let any = AllowedHosts::new(([127, 0, 0, 1], 8004).into(), &[AllowedHost::Any]);
        assert!(public.allow("evil.example") && any.allow("evil.example"));
    }

    #[test]
    fn other_sites_may_read_at_most() {
        let from = |name, value| code(Method::POST, &[("host", "localhost:8004"), (name, value)]);
        let refused = Some(ErrorCode::CrossSite);
        assert_eq!(from("sec-fetch-site", "cross-site"), refused);
        assert_eq!(from("sec-fetch-site", "same-site"), refused);
        assert_eq!(from("sec-fetch-site", "same-origin"), None);
        assert_eq!(from("sec-fetch-site", "none"), None);
        assert_eq!(from("origin", "https://evil.example"), refused);
        assert_eq!(from("origin", "http://localhost:3000"), refused);
        assert_eq!(from("origin", "null"), refused);
        assert_eq!(from("origin", "http://localhost:8004"), None);
        assert_eq!(from("accept", "*/*"), None);
        assert_eq!(code(Method::GET, &[("sec-fetch-site", "cross-site")]), None);
    }
}
