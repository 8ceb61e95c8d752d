//! An HTTP server on loopback, with or without TLS, that answers as a test wants. What it was asked is written down. Each
//! connection has one request.

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    /// The body, if it is JSON.
    pub body: Value,
}

/// A running server. Its thread ends with the tests.
pub struct ScriptedHttp {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What a connection is talked through.
trait Talk: Read + Write {}
impl<T: Read + Write> Talk for T {}

type Wrap = dyn Fn(TcpStream) -> Box<dyn Talk> + Send + Sync;
type Answer = dyn Fn(&Asked) -> (u16, Value) + Send + Sync;

impl ScriptedHttp {
    /// Without TLS.
    pub fn start(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> ScriptedHttp {
        ScriptedHttp::with(Arc::new(|stream| Box::new(stream)), Arc::new(answer))
    }

    /// With TLS for `localhost`; gives the certificate as PEM too.
    pub fn start_tls(
        answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static,
    ) -> (ScriptedHttp, String) {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![key.cert.der().clone()], secret);
        let config = Arc::new(config.unwrap());
        let wrap = move |stream| -> Box<dyn Talk> {
            Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream))
        };
        (ScriptedHttp::with(Arc::new(wrap), Arc::new(answer)), key.cert.pem())
    }

    fn with(wrap: Arc<Wrap>, answer: Arc<Answer>) -> ScriptedHttp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let notes = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (wrap, answer, notes) = (wrap.clone(), answer.clone(), notes.clone());
                // A client that goes away ends its connection only.
                std::thread::spawn(move || drop(serve(&mut *wrap(stream), &answer, &notes)));
            }
        });
        ScriptedHttp { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: &mut dyn Talk, answer: &Arc<Answer>, notes: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let asked = Asked {
        path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    notes.lock().unwrap().push(asked.clone());
    let (status, body) = answer(&asked);
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}
