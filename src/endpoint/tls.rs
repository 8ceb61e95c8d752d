//! TLS for calls to other servers: the trusted authorities and the provider.
//!
//! Bare containers have no certificates, and companies have private ones. So both Mozilla's authorities, which are
//! compiled in, and those of the system or of `SSL_CERT_FILE` and `SSL_CERT_DIR` are trusted.

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;

/// A configuration with the authorities as they are now.
pub fn config() -> ClientConfig {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = rustls_native_certs::load_native_certs();
    // A file that was named and cannot be read is the reason why a server will not be trusted.
    for problem in system.errors {
        tracing::warn!("certificates of authorities: {problem}");
    }
    roots.add_parsable_certificates(system.certs);
    with(roots)
}

/// A configuration that trusts no server, for clients that make no call over TLS.
pub fn without_authorities() -> ClientConfig {
    with(RootCertStore::empty())
}

fn with(roots: RootCertStore) -> ClientConfig {
    // The provider is named, so that none has to be installed for the whole process.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    #[expect(
        clippy::expect_used,
        reason = "the provider is compiled in, and has the cipher suites of these versions"
    )]
    let config = config.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3");
    config.with_root_certificates(roots).with_no_client_auth()
}

/// What is wrong with the certificate of the server, if the connection failed for that.
pub fn certificate_problem(error: &reqwest::Error) -> Option<String> {
    tls_error(error)
        .filter(|problem| matches!(problem, rustls::Error::InvalidCertificate(_)))
        .map(ToString::to_string)
}

/// The error of the TLS library behind an error. An I/O error gives the source of what is inside it, and not what is
/// inside it.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inside = inside.and_then(|inside| tls_error(inside));
    inside.or_else(|| error.source().and_then(tls_error))
}
