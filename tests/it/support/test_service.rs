//! Builds a whole service for a test: its own database, its own data folder, real sockets on a free port.
//!
//! Stories about flow use [`Scripted`] instead of the model, so that they are about flow; stories about meaning
//! use the real one.

use crate::support::database::Database;
use clap::Parser;
use lnsp_ingest::app::{App, EncoderFactory, Overrides};
use lnsp_ingest::chunk::Chunk;
use lnsp_ingest::config::Config;
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokens};
use lnsp_ingest::flow::Backoff;
use lnsp_ingest::http::{self, State};
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::pipeline::FatalHandler;
use lnsp_ingest::stages::{FaultHook, Stage};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A running service.
pub struct TestService {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// The state of its handlers.
    pub state: actix_web::web::Data<State>,
    /// Its database, to look at from outside.
    pub database: Database,
    app: App,
    server: actix_web::dev::ServerHandle,
    door: std::net::TcpListener,
    _data: tempfile::TempDir,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

impl TestService {
    /// With the scripted encoder.
    pub async fn scripted() -> TestService {
        TestService::build(Overrides { encoder: Some(Scripted::factory()), ..overrides() }, &[]).await
    }

    /// With the real model, in f32.
    pub async fn real() -> TestService {
        TestService::build(overrides(), &["--dtype", "f32"]).await
    }

    /// With these overrides and flags.
    pub async fn build(overrides: Overrides, flags: &[&str]) -> TestService {
        TestService::build_with(overrides, flags, http::Settings::default()).await
    }

    /// As [`Self::build`], with these HTTP settings.
    pub async fn build_with(overrides: Overrides, flags: &[&str], settings: http::Settings) -> TestService {
        TestService::start(Database::new().await, overrides, flags, settings).await
    }

    /// As [`Self::build`], on this database.
    pub async fn build_at(database: Database, overrides: Overrides, flags: &[&str]) -> TestService {
        TestService::start(database, overrides, flags, http::Settings::default()).await
    }

    async fn start(
        database: Database,
        overrides: Overrides,
        flags: &[&str],
        settings: http::Settings,
    ) -> TestService {
        let data = tempfile::tempdir().unwrap();
        let dsn = database.dsn().to_owned();
        let base =
            ["lnsp", "--database-url", &dsn, "--data-dir", data.path().to_str().unwrap(), "--port", "0"];
        // A language model that happens to run on this machine must not be asked.
        let local: &[&str] = if flags.contains(&"--tmd-backend") { &[] } else { &["--tmd-backend", "local"] };
        // Rows that fell back stay as they are, and no call is made that a story does not know of.
        let repair: &[&str] = if flags.contains(&"--tmd-repair") { &[] } else { &["--tmd-repair", "false"] };
        let flags = base.iter().chain(local).chain(repair).chain(flags);
        let config = Flags::try_parse_from(flags).unwrap().config;
        let app = App::start(config, overrides, &mut |_| {}).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let door = listener.try_clone().unwrap();
        let settings = http::Settings { drain: Duration::from_secs(5), ..settings };
        let server = http::serve(listener, app.state.clone(), settings).unwrap();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        TestService { url, state: app.state.clone(), database, app, server: handle, door, _data: data }
    }

    /// It accepts no connections any more; new ones wait in line.
    pub async fn pause(&self) {
        self.server.pause().await;
    }

    /// Stops the service in order.
    pub async fn stop(self) {
        self.server.stop(false).await;
        assert_eq!(self.app.stop().await, Vec::<String>::new());
        drop(self.state);
    }

    /// Abandons a service that cannot stop in order, as the exit of its process would.
    pub async fn abandon(self) {
        self.server.stop(false).await;
        assert_eq!(self.app.abandon(), Vec::<String>::new());
    }

    /// Drains its HTTP server; gives the number of chunks without an answer.
    pub async fn drain(&self, within: Duration) -> u64 {
        let deadline = tokio::time::Instant::now() + within;
        http::drain(&self.state, &self.server, self.door.try_clone().unwrap(), deadline).await
    }

    /// `GET path` as JSON, with its status.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = client().get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.post_as(path, "application/json", body).await
    }

    /// `POST path` with a body of another type.
    pub async fn post_as(&self, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = client().post(format!("{}{path}", self.url)).header("Content-Type", kind).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// An NDJSON upload with streamed answers: all lines of the answer.
    pub async fn stream(&self, body: impl Into<reqwest::Body>) -> Vec<Value> {
        stream_to(self.url.clone(), body).await
    }

    /// Rows in the database, counted there.
    pub async fn rows(&self) -> i64 {
        self.database.number("SELECT count(*) FROM chunks").await
    }

    /// Rows and concept vectors in the database and items in the index, which have to be the same number. Question
    /// vectors and the items of their index have to be as many too.
    pub async fn stored(&self) -> u64 {
        let rows = self.rows().await;
        let vectors = async |kind: &str| {
            let sql = format!("SELECT count(*) FROM chunk_vectors WHERE kind = '{kind}'");
            self.database.number(&sql).await
        };
        assert_eq!(vectors("concept").await, rows);
        assert_eq!(i64::try_from(self.state.index.len()).unwrap(), rows);
        let questions = i64::try_from(self.state.questions.len()).unwrap();
        assert_eq!(questions, vectors("question").await);
        rows.unsigned_abs()
    }
}

/// As [`TestService::stream`], for a task of its own.
pub async fn stream_to(url: String, body: impl Into<reqwest::Body>) -> Vec<Value> {
    stream_as(&url, "identity", body).await
}

/// As [`stream_to`], with a `Content-Encoding`.
pub async fn stream_as(url: &str, encoding: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
    let request = client()
        .post(format!("{url}/ingest"))
        .header("Content-Type", "application/x-ndjson")
        .header("Content-Encoding", encoding)
        .header("Accept", "application/x-ndjson")
        .body(body);
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The defaults, but with pauses that a test can wait for.
pub fn overrides() -> Overrides {
    let mut overrides = Overrides::default();
    overrides.pipeline.heal =
        Backoff { first: Duration::from_millis(10), ceiling: Duration::from_millis(50) };
    // Counts are written when a story says so.
    overrides.write_accesses = Duration::from_secs(3600);
    // The end of a service is not the end of all tests.
    overrides.pipeline.watch.fatal_handler =
        FatalHandler::new(|sentence| eprintln!("last resort: {sentence}"));
    overrides
}

/// The folder into which set-up has put the models.
pub fn models() -> std::path::PathBuf {
    crate::root().join(".deps/models")
}

/// A client without proxies.
pub fn client() -> reqwest::Client {
    lnsp_ingest::endpoint::client_builder().build().unwrap()
}

/// Numbered chunks, one a line.
pub fn numbered(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{{\"id\":\"n{n}\",\"text\":\"This is fact number {n}.\"}}\n")).collect()
}

/// Results by status, as `(stored, duplicate, error)`; the summary must be there, agree, and be the last line.
pub fn tally(lines: &[Value]) -> (usize, usize, usize) {
    let (summary, results) = lines.split_last().unwrap();
    assert_eq!(summary["type"], "summary", "{summary}");
    let count = |status| results.iter().filter(|line| line["status"] == status).count();
    let tally = (count("stored"), count("duplicate"), count("error"));
    assert_eq!(summary["stored"], tally.0);
    assert_eq!(summary["duplicates"], tally.1);
    assert_eq!(summary["failed"], tally.2);
    assert_eq!(summary["total_chunks"], results.len());
    tally
}

/// An encoder whose vectors are a function of the tokens, and nothing else.
pub struct Scripted(ModelIdentity);

impl Scripted {
    /// Dimensions of the real model, whose identity it takes the place of.
    pub const DIMS: usize = 384;

    /// To put into [`Overrides`].
    pub fn factory() -> EncoderFactory {
        Arc::new(|| Box::new(Scripted::new()))
    }

    /// An encoder with the identity `scripted`.
    pub fn new() -> Scripted {
        let text = |text: &str| text.to_owned();
        let fingerprint = text("scripted");
        Scripted(ModelIdentity {
            name: text("scripted"),
            recipe: text("scripted"),
            fingerprint,
            dims: Self::DIMS,
        })
    }
}

impl Encoder for Scripted {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn dims(&self) -> usize {
        Self::DIMS
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        Ok(texts.iter().map(|tokens| Ok(direction(&format!("{tokens:?}")))).collect())
    }
}

/// A unit vector that depends on the text alone.
fn direction(text: &str) -> Arc<[f32]> {
    let mut state = blake3::hash(text.as_bytes());
    let mut vector = Vec::with_capacity(Scripted::DIMS);
    while vector.len() < Scripted::DIMS {
        vector.extend(state.as_bytes().iter().map(|byte| f32::from(*byte) - 127.5));
        state = blake3::hash(state.as_bytes());
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

/// Panics when a stage begins work on the chunk with this text.
pub struct Poison {
    /// The stage that dies.
    pub stage: Stage,
    /// The text of the chunk.
    pub text: &'static str,
}

impl FaultHook for Poison {
    fn on_begin(&self, stage: Stage, chunk: &Chunk) {
        assert!(!(stage == self.stage && chunk.text == self.text), "poison");
    }
}
