//! Figures of the whole service over loopback, against its own encoder in the same run.
//!
//! `cargo bench --bench pipeline`; `LNSP_BENCH_CORPUS` names the NDJSON file to measure with, `LNSP_BENCH_ROUNDS`
//! the rounds (5). Both sides are interleaved, each service round on a database and an index of its own, and the
//! figures are medians. The floor of a chunk is tokenizing, its part of a forward pass, and copying the vector out.

use clap::Parser;
use lnsp_ingest::app::{App, Fittings};
use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::config::Config;
use lnsp_ingest::encoder::plan::{Budget, choose};
use lnsp_ingest::encoder::{self, EncodeError, Encoder, Tokens};
use lnsp_ingest::flow::Lane;
use lnsp_ingest::http;
use lnsp_ingest::model::ModelIdentity;
use serde_json::{Value, json};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows that are in the store before the figure that is printed for a filled one.
const FILLED: usize = 50_000;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

fn main() -> Result<()> {
    actix_web::rt::System::new().block_on(bench())
}

async fn bench() -> Result<()> {
    let corpus = std::env::var_os("LNSP_BENCH_CORPUS")
        .map_or_else(|| root().join("tests/data/sample.ndjson"), PathBuf::from);
    let plain = std::fs::read_to_string(&corpus)?;
    let texts = texts(&plain)?;
    let coded = with_codes(&plain)?;
    let rounds = std::env::var("LNSP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    println!("{} chunks of {}, {rounds} rounds", texts.len(), corpus.display());

    let (mut alone, mut whole, mut client) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let service = Service::start().await?;
        service.upload(&plain, "warm-up").await?;
        service.stop().await;
        let service = Service::start().await?;
        alone.push(service.encoder_alone(&texts).await?);
        whole.push(service.upload(&plain, "measured").await?);
        alone.push(service.encoder_alone(&texts).await?);
        service.stop().await;

        let service = Service::start().await?;
        client.push(service.upload(&coded, "coded").await?);
        service.stop().await;
        let rate = |time: &[Duration]| texts.len() as f64 / time.last().map_or(1.0, Duration::as_secs_f64);
        println!(
            "round {round}: encoder {:.0}/s, service {:.0}/s, client codes {:.0}/s",
            rate(&alone),
            rate(&whole),
            rate(&client)
        );
    }
    println!("figure classifier.us_per_chunk {:.1} us", classify(&texts)?);
    let share = median(&mut alone).as_secs_f64() / median(&mut whole).as_secs_f64();
    println!(
        "figure pipeline.local.encoder_alone {:.1} chunks/s",
        texts.len() as f64 / median(&mut alone).as_secs_f64()
    );
    println!(
        "figure pipeline.local.chunks_per_s {:.1} chunks/s",
        texts.len() as f64 / median(&mut whole).as_secs_f64()
    );
    println!("figure pipeline.local.share_of_encoder {share:.3} ratio");
    println!(
        "figure pipeline.client_tmd.chunks_per_s {:.1} chunks/s",
        texts.len() as f64 / median(&mut client).as_secs_f64()
    );
    filled(&plain, &texts, rounds).await
}

/// The share again, into a store that holds many rows already.
async fn filled(plain: &str, texts: &[String], rounds: usize) -> Result<()> {
    let data = data_folder()?;
    let identity = encoder::locate("all-minilm-l6-v2", &[root().join(".deps/models")])?.identity()?;
    let free = Fittings {
        encoder: Some(Arc::new(move || Box::new(Free(identity.clone(), 1)))),
        ..Fittings::default()
    };
    let service = Service::start_in(data, free).await?;
    let numbered: String = (0..FILLED)
        .map(|n| format!("{{\"text\":\"Row {n}.\",\"domain_code\":0,\"task_code\":0,\"modifier_code\":0}}\n"))
        .collect();
    let took = service.upload(&numbered, "filling").await?;
    println!("filled in {FILLED} rows with a free encoder in {:.1} s", took.as_secs_f64());
    let data = service.stop().await;
    let service = Service::start_in(data, Fittings::default()).await?;
    let (mut alone, mut whole) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        alone.push(service.encoder_alone(texts).await?);
        whole.push(service.upload(plain, &format!("filled-{round}")).await?);
    }
    service.stop().await;
    let share = median(&mut alone).as_secs_f64() / median(&mut whole).as_secs_f64();
    println!("figure pipeline.local.share_of_encoder_50k {share:.3} ratio");
    Ok(())
}

/// The local classifier over all texts, the fastest of some passes: microseconds a chunk.
fn classify(texts: &[String]) -> Result<f64> {
    let classifier = LocalClassifier::embedded()?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let started = Instant::now();
        for text in texts {
            std::hint::black_box(classifier.classify(text));
        }
        best = best.min(started.elapsed().as_secs_f64() * 1e6 / texts.len() as f64);
    }
    Ok(best)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn texts(ndjson: &str) -> Result<Vec<String>> {
    let text = |line: &str| -> Result<String> {
        let chunk: Value = serde_json::from_str(line)?;
        Ok(chunk["text"].as_str().ok_or("a line without text")?.to_owned())
    };
    ndjson.lines().filter(|line| !line.trim().is_empty()).map(text).collect()
}

/// The same chunks as a client sends them that knows its codes.
fn with_codes(ndjson: &str) -> Result<String> {
    let mut coded = String::new();
    for (n, line) in ndjson.lines().filter(|line| !line.trim().is_empty()).enumerate() {
        let mut chunk: Value = serde_json::from_str(line)?;
        (chunk["domain_code"], chunk["task_code"], chunk["modifier_code"]) =
            (json!(n % 16), json!(n % 32), json!(n % 64));
        coded += &chunk.to_string();
        coded.push('\n');
    }
    Ok(coded)
}

/// A whole service in this process, with its own PostgreSQL, on loopback.
struct Service {
    app: App,
    url: String,
    server: actix_web::dev::ServerHandle,
    data: tempfile::TempDir,
}

impl Service {
    async fn start() -> Result<Service> {
        Service::start_in(data_folder()?, Fittings::default()).await
    }

    async fn start_in(data: tempfile::TempDir, fittings: Fittings) -> Result<Service> {
        let folder = data.path().display().to_string();
        let config = Flags::try_parse_from(["bench", "--data-dir", &folder])?.config;
        let app = App::start(config, fittings, &mut |_| {}).await?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = http::serve(listener, app.state.clone(), http::Settings::default())?;
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Ok(Service { app, url, server: handle, data })
    }

    async fn stop(self) -> tempfile::TempDir {
        self.server.stop(false).await;
        for trouble in self.app.stop().await {
            eprintln!("{trouble}");
        }
        self.data
    }

    /// From the first byte to the summary; every chunk must be stored.
    async fn upload(&self, ndjson: &str, dataset: &str) -> Result<Duration> {
        let expected = ndjson.lines().filter(|line| !line.trim().is_empty()).count();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client
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

    /// Tokenizing, forward passes and copying the vectors out, on the service's own model thread, with the service's
    /// own batch plan over all texts at once.
    async fn encoder_alone(&self, texts: &[String]) -> Result<Duration> {
        let search = &self.app.state.search;
        let tokenizer = search.tokenizer.run(Lane::Bulk, |tokenizer| tokenizer.clone()).await?;
        let facts = &self.app.state.facts;
        let budget = Budget { tokens: facts.pass_tokens, texts: facts.pass_texts };
        let texts = texts.to_vec();
        let run = search.model.run(Lane::Bulk, move |encoder| -> std::result::Result<Duration, String> {
            let started = Instant::now();
            let tokens: std::result::Result<Vec<Tokens>, _> =
                texts.iter().map(|text| tokenizer.tokenize(text)).collect();
            let mut waiting: Vec<Tokens> = tokens.map_err(|error| error.to_string())?;
            let mut rows = Vec::new();
            while !waiting.is_empty() {
                let lengths: Vec<usize> = waiting.iter().map(Tokens::len).collect();
                let mut chosen = choose(&lengths, budget);
                chosen.sort_unstable_by(|a, b| b.cmp(a));
                let batch: Vec<Tokens> = chosen.into_iter().map(|at| waiting.swap_remove(at)).collect();
                let vectors =
                    encoder.encode(&batch.iter().collect::<Vec<_>>()).map_err(|error| error.to_string())?;
                for vector in vectors {
                    let vector = vector.map_err(|error| error.to_string())?;
                    rows.push(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
                }
            }
            Ok(started.elapsed())
        });
        Ok(run.await??)
    }
}

/// An encoder that costs nothing, to fill a store with rows.
struct Free(ModelIdentity, u32);

impl Encoder for Free {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn dims(&self) -> usize {
        self.0.dims
    }

    fn encode(&mut self, texts: &[&Tokens]) -> std::result::Result<Vec<encoder::Vector>, EncodeError> {
        let mut vector = || {
            let wave = (0..self.0.dims).map(|i| {
                self.1 = self.1.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from((self.1 >> 16) as u16) / 32768.0 - 1.0 + (i % 7) as f32 * 0.05
            });
            let wave: Vec<f32> = wave.collect();
            let norm = wave.iter().map(|x| x * x).sum::<f32>().sqrt();
            wave.iter().map(|x| x / norm).collect()
        };
        Ok(texts.iter().map(|_| Ok(vector())).collect())
    }
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// As root our PostgreSQL runs under another account, which has to get to its folder.
fn data_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}
