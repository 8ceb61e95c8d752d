//! kill -9 in the middle of uploads: every acknowledged chunk is there once, and the index catches up.
//!
//! The service is a process of its own with its own PostgreSQL. The oracle of acknowledged ids lives here.

use crate::support::database::Database;
use crate::support::postgres::DataFolder;
use crate::support::process::Service;
use crate::support::test_service::{client, numbered};
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const ROUNDS: usize = 20;
const CHUNKS: usize = 300;

/// Uploads numbered chunks and kills the service once `enough` answers have come. Gives the ids that were
/// acknowledged.
async fn upload_and_kill(service: Service, range: std::ops::Range<usize>, enough: usize) -> BTreeSet<String> {
    let response = client()
        .post(format!("{}/ingest", service.url))
        .header("Content-Type", "application/x-ndjson")
        .header("Accept", "application/x-ndjson")
        .body(numbered(range))
        .send()
        .await
        .unwrap();
    let mut service = Some(service);
    let (mut acknowledged, mut text) = (BTreeSet::new(), String::new());
    let mut body = response.bytes_stream();
    while let Some(Ok(piece)) = body.next().await {
        text.push_str(std::str::from_utf8(&piece).unwrap());
        while let Some((line, rest)) = text.split_once('\n') {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["status"] == "stored" {
                acknowledged.insert(line["id"].as_str().unwrap().to_owned());
            }
            text = rest.to_owned();
        }
        if acknowledged.len() >= enough
            && let Some(service) = service.take()
        {
            service.kill();
        }
    }
    if let Some(service) = service {
        service.kill();
    }
    acknowledged
}

/// What a restarted service holds: rows as search and health tell them.
async fn numbers(service: &Service) -> (u64, u64) {
    let health: Value =
        client().get(format!("{}/health", service.url)).send().await.unwrap().json().await.unwrap();
    (health["index"]["items"].as_u64().unwrap(), health["index"]["in_memory"].as_u64().unwrap())
}

#[actix_web::test]
async fn nothing_acknowledged_is_lost_in_twenty_kills() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let data = DataFolder::new();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let service = Service::start(data.path(), &[]);
        check(&service, &acknowledged, data.path(), seed).await;
        let from = round * CHUNKS;
        let enough = dice.random_range(0..CHUNKS);
        acknowledged.extend(upload_and_kill(service, from..from + CHUNKS, enough).await);
    }
    let service = Service::start(data.path(), &[]);
    check(&service, &acknowledged, data.path(), seed).await;
    // Sending everything again stores the rest, doubles nothing, and the index equals the rows.
    let again = client()
        .post(format!("{}/ingest", service.url))
        .header("Content-Type", "application/x-ndjson")
        .body(numbered(0..ROUNDS * CHUNKS));
    let summary: Value = again.send().await.unwrap().json().await.unwrap();
    assert_eq!(summary["failed"], 0, "seed {seed}: {summary}");
    assert!(summary["duplicates"].as_u64().unwrap() >= acknowledged.len() as u64, "seed {seed}: {summary}");
    assert!(acknowledged.len() > ROUNDS, "the kills came after some answers");
    let (built, in_memory) = numbers(&service).await;
    assert_eq!(built + in_memory, (ROUNDS * CHUNKS) as u64, "seed {seed}");
    assert!(service.terminate().success());
}

/// The database of a service that has its own PostgreSQL.
fn own_server(data: &Path) -> Database {
    let folder = data.join("postgres").canonicalize().unwrap();
    Database::at(lnsp_ingest::store::Dsn::socket(&folder.join("run"), 5432, "lnsp", "lnsp"))
}

/// Every acknowledged id has exactly one row with one vector, and as many items are searched as there are rows.
async fn check(service: &Service, acknowledged: &BTreeSet<String>, data: &Path, seed: u64) {
    let database = own_server(data);
    let rows = database.texts("SELECT id FROM chunks JOIN chunk_vectors USING (item)").await;
    let ids: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(ids.len(), rows.len(), "seed {seed}: doubled rows");
    let lost: Vec<&String> = acknowledged.difference(&ids).collect();
    assert!(lost.is_empty(), "seed {seed}: acknowledged and lost: {lost:?}");
    let (built, in_memory) = numbers(service).await;
    assert_eq!(built + in_memory, rows.len() as u64, "seed {seed}: the index has caught up");
    if let Some(id) = acknowledged.iter().next_back() {
        let text = format!("This is fact number {}.", &id[1..]);
        let body = json!({"query": text, "top_k": 1}).to_string();
        let request = client().post(format!("{}/search", service.url));
        let request = request.header("Content-Type", "application/json").body(body);
        let found: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(found["results"][0]["id"], id.as_str(), "seed {seed}");
    }
}
