//! A small request beside a bulk upload, when both need a language model that takes 887 ms a call, ten at once: how
//! long it takes, and what it costs the upload. Each round is the upload alone and the same upload with requests
//! beside it, in an order that changes from round to round.

use super::body::{Packing, lines};
use super::process::Process;
use super::{Result, scaled, upload};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

const WORKERS: usize = 10;
/// Chunks of an upload: so many rounds of calls.
const CHUNKS: usize = 22 * WORKERS;
const ROUNDS: usize = 3;
/// Between the end of a small request and the next one: they are small traffic, not a second upload.
const PAUSE: Duration = Duration::from_secs(7);

pub async fn figures(scale: f64) -> Result<()> {
    let (chunks, rounds) = (scaled(CHUNKS, scale), ROUNDS);
    let llm = Process::llm(WORKERS)?;
    let workers = WORKERS.to_string();
    let flags = ["--tmd-backend", "llm", "--tmd-on-failure", "reject", "--llm-endpoint", &llm.url];
    let service = Process::real(&[&flags[..], &["--max-parallel-workers", &workers]].concat())?;
    let (mut alone, mut beside, mut small) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        for side in [round % 2, (round + 1) % 2] {
            let dataset = format!("bulk-{round}-{side}");
            if side == 0 {
                alone.push(bulk(&service.url, &dataset, chunks).await?);
            } else {
                let requests = requests(&service.url, &dataset, &mut small);
                tokio::select! {
                    took = bulk(&service.url, &dataset, chunks) => beside.push(took?),
                    error = requests => return Err(error),
                }
            }
        }
        println!("round {round}: alone {:.2} s, beside {:.2} s", seconds(&alone), seconds(&beside));
    }
    if small.is_empty() {
        return Err("no small request ended while an upload ran: make it larger".into());
    }
    small.sort_unstable();
    println!("{} requests of 2 chunks beside uploads of {chunks}", small.len());
    println!("figure uploads.beside.small_median_s {:.2} s", small[small.len() / 2].as_secs_f64());
    println!("figure uploads.beside.small_worst_s {:.2} s", seconds(&small));
    alone.sort_unstable();
    beside.sort_unstable();
    let (alone, beside) = (alone[rounds / 2].as_secs_f64(), beside[rounds / 2].as_secs_f64());
    println!("figure uploads.beside.bulk_loss_percent {:.1} %", (1.0 - alone / beside) * 100.0);
    Ok(())
}

fn seconds(times: &[Duration]) -> f64 {
    times.last().map_or(0.0, Duration::as_secs_f64)
}

async fn bulk(url: &str, dataset: &str, chunks: usize) -> Result<Duration> {
    let named = dataset.to_owned();
    let body = lines(chunks, Packing::Identity, move |n, to| {
        writeln!(to, "{{\"text\":\"The bulk upload {named} states its fact number {n}.\"}}")
            .unwrap_or_default();
    })?;
    Ok(upload::send(url, dataset, Packing::Identity, body, chunks).await?.took)
}

/// Sends small requests one after the other until it is dropped; gives an error if one fails.
async fn requests(url: &str, dataset: &str, times: &mut Vec<Duration>) -> Box<dyn std::error::Error> {
    let client = match lnsp_ingest::endpoint::client_builder().build() {
        Ok(client) => client,
        Err(error) => return error.into(),
    };
    for n in 0.. {
        tokio::time::sleep(if n == 0 { Duration::from_secs(2) } else { PAUSE }).await;
        let chunks = [0, 1].map(|k| json!({"text": format!("Beside {dataset}, request {n}, chunk {k}.")}));
        let started = Instant::now();
        let request = client.post(format!("{url}/ingest")).json(&json!({"chunks": chunks}));
        let answer: Value = match async { request.send().await?.json().await }.await {
            Ok(answer) => answer,
            Err(error) => return error.into(),
        };
        if answer["successful"] != 2 {
            return format!("expected two chunks stored, received {answer}").into();
        }
        times.push(started.elapsed());
    }
    "the numbers have ended".into()
}
