//! Connections to the hub: direct, or through the proxy of the environment; and the trusted authorities.
//!
//! Bare containers have no certificates, and companies have private ones. So both Mozilla's authorities, which are
//! compiled in, and those of the system are trusted.

use super::HubError;
use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

type Problem = Box<dyn Error + Send + Sync>;

/// Makes the connections below TLS.
#[derive(Clone)]
pub struct ProxyConnector {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
}

/// A connector to any address, with TLS where it begins with `https`.
pub fn build(connect: Duration) -> Result<HttpsConnector<ProxyConnector>, HubError> {
    let mut direct = HttpConnector::new();
    direct.enforce_http(false);
    direct.set_connect_timeout(Some(connect));
    direct.set_nodelay(true);
    let connector = ProxyConnector { direct, proxies: Arc::new(Matcher::from_env()) };

    // The provider is named, so that none has to be installed for the whole process.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions();
    let tls = tls.map_err(|error| HubError::Tls { problem: error.to_string() })?;
    let tls = tls.with_root_certificates(authorities()).with_no_client_auth();
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector))
}

fn authorities() -> RootCertStore {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // What cannot be read there is as good as not there: the compiled ones are enough for most.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl Service<Uri> for ProxyConnector {
    type Response = TokioIo<TcpStream>;
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Problem>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        // A hub without TLS is on the local network and needs no proxy.
        let far = to.scheme() == Some(&Scheme::HTTPS);
        let Some(proxy) = self.proxies.intercept(&to).filter(|_| far) else {
            return Box::pin(async move { Ok(direct.call(to).await?) });
        };
        if proxy.uri().scheme() != Some(&Scheme::HTTP) {
            let kind = proxy.uri().scheme_str().unwrap_or_default().to_owned();
            let problem = format!("the proxy is one for {kind}: expected an address like http://proxy:3128");
            return Box::pin(async move { Err(problem.into()) });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(name_and_password) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(name_and_password.clone());
        }
        Box::pin(async move {
            Ok(tunnel
                .call(to)
                .await
                .map_err(|error| format!("the proxy: {}", super::error::cause(&error)))?)
        })
    }
}
