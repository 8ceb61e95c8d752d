//! Figures about searches: how fast, how exact, what a filter costs, what an ingest beside them does, what the index
//! costs to keep.
//!
//! `cargo bench --bench search [PART...]`, the parts being `index`, `http` and `ingest`, and `soak`, which
//! runs only when it is named: a quarter of an hour. The vectors are those of text
//! windows of the corpus (`LNSP_BENCH_CORPUS`), embedded once and kept under `target`; beyond their number, pairs of them
//! are mixed, with noise. `LNSP_BENCH_ROWS` (100000) says how many there are. `scripts/search_peers` gets hnswlib,
//! usearch and hannoy, which then search the same vectors in the same run.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod corpus;
mod http;
mod in_process;
mod ingest;
mod memory_source;
mod numbers;
mod peers;
#[path = "../pipeline/service.rs"]
#[allow(dead_code, reason = "other benches use the rest of it")]
mod service;
mod soak;

use corpus::Corpus;
use service::Result;

const PARTS: [&str; 4] = ["index", "http", "ingest", "soak"];

fn main() -> Result<()> {
    lnsp_ingest::encoder::bound_kernel_caches();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    if let Some(name) = arguments.iter().find(|name| !PARTS.contains(&name.as_str())) {
        return Err(format!("there is no part '{name}': expected {}", PARTS.join(", ")).into());
    }
    let wants = |part: &str| arguments.is_empty() || arguments.iter().any(|name| name == part);
    let rows = std::env::var("LNSP_BENCH_ROWS").ok().map_or(Ok(100_000), |text| text.parse())?;
    let system = actix_web::rt::System::new();
    let corpus = system.block_on(Corpus::load(rows))?;
    println!("{rows} vectors of {} dimensions, {} of them as embedded", corpus.dims, corpus.embedded);
    if wants("index") {
        in_process::figures(&corpus)?;
    }
    if wants("http") {
        system.block_on(http::figures(&corpus))?;
    }
    if wants("ingest") {
        system.block_on(ingest::figures(&corpus))?;
    }
    if arguments.iter().any(|name| name == "soak") {
        system.block_on(soak::figures(&corpus))?;
    }
    Ok(())
}
