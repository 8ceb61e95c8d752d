//! One request to the hub, and where it leads: redirects, time-outs, and what an answer means.
//!
//! Redirects are followed here, because the token must not go with them: a hub sends its readers to the stores of
//! others.

use super::connector::{self, ProxyConnector};
use super::error::cause;
use super::{Address, HubError, Token};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::header::{RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::time::timeout;
use url::Url;

/// The hub's own redirects are two at most.
const REDIRECTS: usize = 8;
/// Lists of files and small files are shorter.
const LONGEST_ANSWER: usize = 16 << 20;
/// No `Retry-After` is waited for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long is waited, and how often is tried again.
#[derive(Debug, Clone, Copy)]
pub struct FetchRetry {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a byte, on a connection that stands.
    pub stall: Duration,
    /// Before the second try; before each further one twice as long.
    pub pause: Duration,
    /// Tries in a row that do not bring a byte.
    pub tries: u32,
}

impl Default for FetchRetry {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        FetchRetry { connect: seconds(10), stall: seconds(30), pause: seconds(1), tries: 5 }
    }
}

/// The reason why there is no answer.
pub enum FetchError {
    /// A retry may help, after `wait` if the server says so.
    Transient { host: String, problem: String, wait: Option<Duration> },
    /// A retry does not help.
    Permanent(HubError),
}

impl From<HubError> for FetchError {
    fn from(error: HubError) -> FetchError {
        FetchError::Permanent(error)
    }
}

/// A good answer, or one that says why there is none.
pub struct HubResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where the last redirect led.
    url: Url,
    body: Incoming,
    stall: Duration,
}

pub struct Client {
    http: legacy::Client<HttpsConnector<ProxyConnector>, Empty<Bytes>>,
    pub hub: Address,
    token: Option<Token>,
    pub retry: FetchRetry,
}

impl Client {
    pub fn new(hub: Address, token: Option<Token>, retry: FetchRetry) -> Result<Client, HubError> {
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector::build(retry.connect)?);
        Ok(Client { http, hub, token, retry })
    }

    /// Asks for a file from a byte on; the status is one of success.
    pub async fn get(&self, url: &Url, from: u64) -> Result<HubResponse, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let reply = self.send(&url, from).await?;
            if !reply.status.is_redirection() {
                return self.judge(reply).await;
            }
            url = self.next(&url, &reply)?;
        }
        Err(self.no_hub(&url, format!("more than {REDIRECTS} redirects")).into())
    }

    /// Asks, and reads the whole answer.
    pub async fn read(&self, url: &Url) -> Result<(HeaderMap, Vec<u8>), FetchError> {
        let mut reply = self.get(url, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = reply.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LONGEST_ANSWER {
                return Err(self.no_hub(url, format!("more than {LONGEST_ANSWER} bytes")).into());
            }
        }
        Ok((reply.headers, bytes))
    }

    pub fn no_hub(&self, url: &Url, problem: String) -> HubError {
        HubError::NotAHub { url: shown(url), problem }
    }

    async fn send(&self, url: &Url, from: u64) -> Result<HubResponse, FetchError> {
        let mut request = Request::get(url.as_str())
            .header(USER_AGENT, concat!("lnsp-ingest/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.hub.is_home_of(url)) {
            let bearer = HeaderValue::from_str(&format!("Bearer {}", token.secret())).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            request = request.header(AUTHORIZATION, bearer.unwrap_or(HeaderValue::from_static("")));
        }
        let request = request.body(Empty::new()).map_err(|error| self.no_hub(url, error.to_string()))?;
        let limit = self.retry.connect + self.retry.stall;
        let answer = timeout(limit, self.http.request(request)).await;
        let answer =
            answer.map_err(|_| transient(url, format!("no answer within {} s", limit.as_secs_f64())))?;
        let answer = answer.map_err(|error| {
            let problem = cause(&error);
            // Trying again does not make a certificate better.
            match problem.contains("certificate") {
                true => HubError::Untrusted { host: host(url), problem }.into(),
                false => transient(url, problem),
            }
        })?;
        let (head, body) = answer.into_parts();
        let stall = self.retry.stall;
        Ok(HubResponse { status: head.status, headers: head.headers, url: url.clone(), body, stall })
    }

    fn next(&self, url: &Url, reply: &HubResponse) -> Result<Url, HubError> {
        let to = reply.headers.get(LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
        let to = to.filter(|to| matches!(to.scheme(), "http" | "https"));
        let to = to.ok_or_else(|| {
            self.no_hub(url, format!("status {} that leads nowhere", reply.status.as_u16()))
        })?;
        if url.scheme() == "https" && to.scheme() != "https" {
            return Err(self.no_hub(url, "a redirect that leaves TLS".to_owned()));
        }
        Ok(to)
    }

    async fn judge(&self, reply: HubResponse) -> Result<HubResponse, FetchError> {
        let status = reply.status.as_u16();
        match status {
            200..=299 | 416 => Ok(reply),
            408 | 429 | 500.. => {
                let wait = reply.header(RETRY_AFTER).and_then(|after| after.parse().ok());
                let wait = wait.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
                let (host, problem) = (host(&reply.url), format!("status {status}"));
                Err(FetchError::Transient { host, problem, wait })
            }
            // The addresses in a store run out; the hub then gives a new one.
            _ if !self.hub.is_home_of(&reply.url) => Err(transient(&reply.url, format!("status {status}"))),
            _ => Err(FetchError::Permanent(HubError::Refused {
                url: shown(&reply.url),
                status,
                code: reply.header(HeaderName::from_static("x-error-code")).unwrap_or_default().to_owned(),
            })),
        }
    }
}

impl HubResponse {
    /// The next bytes; `None` at the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = timeout(self.stall, self.body.frame()).await;
            let stalled = |_| transient(&self.url, format!("no byte for {} s", self.stall.as_secs_f64()));
            match frame.map_err(stalled)? {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Err(transient(&self.url, cause(&error))),
            }
        }
    }

    /// The value of a header, if it is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A transient error of this response.
    pub fn transient(&self, problem: &str) -> FetchError {
        transient(&self.url, problem.to_owned())
    }
}

fn transient(url: &Url, problem: String) -> FetchError {
    FetchError::Transient { host: host(url), problem, wait: None }
}

fn host(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// The address without its query, which in the addresses of stores grants access to the file.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
