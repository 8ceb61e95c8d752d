//! Searches by vector over HTTP, one after another on one connection, in a whole service with its own PostgreSQL.

use super::corpus::Corpus;
use super::memory_source::{SHARES, metadata};
use super::numbers::{Times, recall};
use super::service::{Result, Service};
use lnsp_ingest::chunk::base64_of;
use serde_json::{Value, json};
use std::time::Instant;

/// Lines of one upload.
const UPLOAD: usize = 10_000;

pub async fn figures(corpus: &Corpus) -> Result<()> {
    let service = filled(corpus).await?;
    let wanted = corpus.nearest(|_| true);
    // The first ones open connections.
    searches(&service, corpus, None).await?;
    let (times, found) = searches(&service, corpus, None).await?;
    println!("recall over HTTP {:.4}", recall(&found, &wanted));
    println!("figure search.http_p50_ms {:.3} ms", times.quantile(0.5));
    println!("figure search.http_p99_ms {:.3} ms", times.quantile(0.99));
    parts(&service, corpus).await?;
    println!("| filter | recall | p50 ms | p99 ms | hits |");
    for share in SHARES {
        let wanted = corpus.nearest(|place| place % share == 0);
        let (times, found) = searches(&service, corpus, Some(share)).await?;
        let fewest = found.iter().map(Vec::len).min().unwrap_or_default();
        println!(
            "| one in {share} | {:.4} | {:.3} | {:.3} | {fewest} of {} |",
            recall(&found, &wanted),
            times.quantile(0.5),
            times.quantile(0.99),
            wanted[0].len(),
        );
        println!("figure search.http_p99_ms.one_in_{share} {:.3} ms", times.quantile(0.99));
    }
    service.stop().await;
    Ok(())
}

/// A service that holds the rows. Their vectors are sent with them, so nothing is embedded.
pub async fn filled(corpus: &Corpus) -> Result<Service> {
    let service = Service::start(&["--tmd-backend", "local"]).await?;
    let started = Instant::now();
    for first in (0..corpus.rows.len()).step_by(UPLOAD) {
        let last = corpus.rows.len().min(first + UPLOAD);
        let lines: String = (first..last).map(|place| line(corpus, place)).collect();
        service.upload(&lines, "bench").await?;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} rows stored in {took:.1} s, {:.0} a second",
        corpus.rows.len(),
        corpus.rows.len() as f64 / took
    );
    Ok(service)
}

fn line(corpus: &Corpus, place: usize) -> String {
    let line = json!({
        "id": place.to_string(), "document_id": (place / 40).to_string(),
        "text": format!("Row {place} of the bench stands here with a few words, as a chunk has them."),
        "metadata": metadata(place), "vector": base64_of(&corpus.rows[place]),
        "vector_model": corpus.fingerprint, "domain_code": place % 16, "task_code": 0, "modifier_code": 0,
    });
    format!("{line}\n")
}

/// A search of each query; their times, and the places of what they found.
pub async fn searches(
    service: &Service,
    corpus: &Corpus,
    share: Option<usize>,
) -> Result<(Times, Vec<Vec<u32>>)> {
    let (mut times, mut found) = (Times::default(), Vec::new());
    for query in &corpus.queries {
        let (took, answer) = search(service, &body(query, share)).await?;
        times.add(took);
        found.push(places(&answer));
    }
    Ok((times, found))
}

pub fn body(query: &[f32], share: Option<usize>) -> String {
    let mut body = json!({"vector": query, "top_k": 10});
    if let Some(share) = share {
        body["filter"] = json!({"metadata": {format!("in_{share}"): true}});
    }
    body.to_string()
}

pub async fn search(service: &Service, body: &str) -> Result<(std::time::Duration, Value)> {
    let request = service.client.post(format!("{}/search", service.url));
    let request = request.header("Content-Type", "application/json").body(body.to_owned());
    let started = Instant::now();
    let answer = request.send().await?.bytes().await?;
    let took = started.elapsed();
    let answer: Value = serde_json::from_slice(&answer)?;
    if answer["results"].is_array() { Ok((took, answer)) } else { Err(answer.to_string().into()) }
}

fn places(answer: &Value) -> Vec<u32> {
    let results = answer["results"].as_array().into_iter().flatten();
    results.filter_map(|result| result["id"].as_str()?.parse().ok()).collect()
}

/// Where the time of a search goes: what the service says of itself, and the rest.
async fn parts(service: &Service, corpus: &Corpus) -> Result<()> {
    let mut parts: [(&str, Times); 4] = [
        ("prepare", Times::default()),
        ("index", Times::default()),
        ("rows", Times::default()),
        ("rest", Times::default()),
    ];
    for query in &corpus.queries {
        let body = json!({"vector": &query[..], "top_k": 10, "explain": true}).to_string();
        let (took, answer) = search(service, &body).await?;
        let mut rest = took.as_secs_f64();
        for (name, times) in &mut parts {
            let part = answer["explanation"]["times_ms"][*name].as_f64().unwrap_or_default() / 1e3;
            rest -= part;
            times.add(std::time::Duration::from_secs_f64(if *name == "rest" { rest.max(0.0) } else { part }));
        }
    }
    println!("| part of a search | mean ms | p99 ms |");
    for (name, times) in &parts {
        println!("| {name} | {:.3} | {:.3} |", times.mean(), times.quantile(0.99));
    }
    Ok(())
}
