//! Figures without a language model, against the service's own encoder. The floor of a chunk is tokenizing, its part
//! of a forward pass, and copying the vector out, on all cores: the same encoders work on it, all at once. Each round
//! of the service has a database and an index of its own.

use super::root;
use super::service::{Result, Service, data_folder, median};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::encoder::{self, EncodeError, Encoder, Tokens};
use lnsp_ingest::model::ModelIdentity;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows that are in the store before the figure that is printed for a filled one.
const FILLED: usize = 50_000;

/// No language model is asked for codes.
const LOCAL: [&str; 2] = ["--tmd-backend", "local"];

/// Prints the figures of an NDJSON corpus.
pub async fn figures(plain: &str, rounds: usize) -> Result<()> {
    let (texts, coded) = (texts(plain)?, with_codes(plain)?);
    let (mut alone, mut whole, mut client) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let service = Service::start(&LOCAL).await?;
        service.upload(plain, "warm-up").await?;
        service.stop().await;
        let service = Service::start(&LOCAL).await?;
        alone.push(service.encoder_alone(&texts).await?);
        whole.push(service.upload(plain, "measured").await?);
        alone.push(service.encoder_alone(&texts).await?);
        service.stop().await;

        let service = Service::start(&LOCAL).await?;
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
    filled(plain, &texts, rounds).await
}

/// The share again, into a store that holds many rows already.
async fn filled(plain: &str, texts: &[String], rounds: usize) -> Result<()> {
    let data = data_folder()?;
    let free = free_encoder()?;
    let service = Service::start_in(data, free, &LOCAL).await?;
    let numbered: String = (0..FILLED)
        .map(|n| format!("{{\"text\":\"Row {n}.\",\"domain_code\":0,\"task_code\":0,\"modifier_code\":0}}\n"))
        .collect();
    let took = service.upload(&numbered, "filling").await?;
    println!("filled in {FILLED} rows with a free encoder in {:.1} s", took.as_secs_f64());
    let data = service.stop().await;
    let service = Service::start_in(data, Overrides::default(), &LOCAL).await?;
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

/// A service whose encoder costs nothing.
pub fn free_encoder() -> Result<Overrides> {
    let identity = encoder::locate("all-minilm-l6-v2", &[root().join(".deps/models")])?.identity()?;
    let encoder = move || -> Box<dyn Encoder> { Box::new(Free(identity.clone(), 1)) };
    Ok(Overrides { encoder: Some(Arc::new(encoder)), ..Overrides::default() })
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
