//! A whole service as a bench sees it: flags in, uploads timed, and the floor of its encoders.

use clap::Parser;
use lnsp_ingest::app::{App, Overrides};
use lnsp_ingest::config::Config;
use lnsp_ingest::encoder::plan::{Budget, choose};
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokenizer, Tokens};
use lnsp_ingest::http;
use lnsp_ingest::threads::Lane;
use lnsp_ingest::vectorizer::Local;
use serde_json::Value;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// A whole service in this process, with its own PostgreSQL, on loopback.
pub struct Service {
    pub url: String,
    pub client: reqwest::Client,
    app: App,
    server: actix_web::dev::ServerHandle,
    data: tempfile::TempDir,
}

impl Service {
    /// In a folder of its own, with these flags.
    pub async fn start(flags: &[&str]) -> Result<Service> {
        Service::start_in(data_folder()?, Overrides::default(), flags).await
    }

    pub async fn start_in(data: tempfile::TempDir, overrides: Overrides, flags: &[&str]) -> Result<Service> {
        let folder = data.path().display().to_string();
        let config = Flags::try_parse_from(
            ["bench", "--llm-cache-mb", "0", "--data-dir", &folder].iter().chain(flags),
        )?
        .config;
        let app = App::start(config, overrides, &mut |_| {}).await?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = http::serve(listener, app.state.clone(), http::Settings::default())?;
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let client = lnsp_ingest::endpoint::client_builder().build()?;
        Ok(Service { url, client, app, server: handle, data })
    }

    /// In order; gives its folder.
    pub async fn stop(self) -> tempfile::TempDir {
        self.server.stop(false).await;
        for trouble in self.app.stop().await {
            eprintln!("{trouble}");
        }
        self.data
    }

    /// What its HTTP face works with.
    pub fn state(&self) -> &http::State {
        &self.app.state
    }

    /// From the first byte to the summary; every chunk must be stored.
    pub async fn upload(&self, ndjson: &str, dataset: &str) -> Result<Duration> {
        let expected = ndjson.lines().filter(|line| !line.trim().is_empty()).count();
        let request = self
            .client
            .post(format!("{}/ingest?dataset_source={dataset}", self.url))
            .header("Content-Type", "application/x-ndjson")
            .header("Accept", "application/x-ndjson")
            .body(ndjson.to_owned());
        let started = Instant::now();
        let answer = request.send().await?.text().await?;
        let took = started.elapsed();
        let summary: Value = serde_json::from_str(answer.lines().last().unwrap_or_default())?;
        if summary["stored"] != expected {
            return Err(format!("expected {expected} stored, received {summary}").into());
        }
        Ok(took)
    }

    /// Tokenizing, forward passes and copying the vectors out, on all of the service's own model threads at once, with
    /// the service's own batch plan over all texts at once.
    pub async fn encoder_alone(&self, texts: &[String]) -> Result<Duration> {
        let local = self.state().vectorizer.model().ok_or("the model is elsewhere")?;
        let Local { tokenizer, encoders: model } = local;
        let info = &self.state().info;
        let floor = Arc::new(Floor {
            tokenizer: tokenizer.run(Lane::Bulk, |tokenizer| tokenizer.clone()).await?,
            budget: Budget { tokens: info.pass_tokens, texts: info.pass_texts },
            encoders: model.threads(),
            texts: texts.to_vec(),
            tokenized: AtomicUsize::new(0),
            waiting: Mutex::default(),
            all_tokenized: Barrier::new(model.threads()),
        });
        let started = Instant::now();
        let works = (0..model.threads()).map(|_| {
            let floor = floor.clone();
            model
                .run(Lane::Bulk, move |encoder| floor.work(&mut **encoder).map_err(|error| error.to_string()))
        });
        for done in futures_util::future::try_join_all(works).await? {
            done?;
        }
        Ok(started.elapsed())
    }
}

/// All the work that the encoders have at least to do; each takes the next piece when it is free.
struct Floor {
    tokenizer: Arc<Tokenizer>,
    budget: Budget,
    encoders: usize,
    texts: Vec<String>,
    tokenized: AtomicUsize,
    /// The texts that wait, and the number of tokens under way.
    waiting: Mutex<(Vec<Tokens>, usize)>,
    all_tokenized: Barrier,
}

impl Floor {
    fn work(&self, encoder: &mut dyn Encoder) -> std::result::Result<(), EncodeError> {
        let tokens = self.tokenize();
        self.all_tokenized.wait();
        tokens?;
        let mut rows = Vec::new();
        let mut done = 0;
        loop {
            let pass = self.pull(done);
            if pass.is_empty() {
                return Ok(());
            }
            for vector in encoder.encode(&pass.iter().collect::<Vec<_>>())? {
                rows.push(vector?.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            }
            done = pass.iter().map(Tokens::len).sum();
        }
    }

    fn tokenize(&self) -> std::result::Result<(), EncodeError> {
        while let Some(text) = self.texts.get(self.tokenized.fetch_add(1, Ordering::Relaxed)) {
            let tokens = self.tokenizer.tokenize(text)?;
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.push(tokens);
        }
        Ok(())
    }

    fn pull(&self, done: usize) -> Vec<Tokens> {
        let (waiting, running) = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *running -= done;
        let lengths: Vec<usize> = waiting.iter().map(Tokens::len).collect();
        let mut chosen = choose(&lengths, self.budget.share(&lengths, *running, self.encoders));
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        let pass: Vec<Tokens> = chosen.into_iter().map(|at| waiting.swap_remove(at)).collect();
        *running += pass.iter().map(Tokens::len).sum::<usize>();
        pass
    }
}

/// The middle one.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// As root our PostgreSQL runs under another account, which has to get to its folder.
pub fn data_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}
