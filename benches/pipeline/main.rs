//! Figures of the whole service over loopback, against its floors in the same run.
//!
//! `cargo bench --bench pipeline [local | llm | pool | faults]`; `LNSP_BENCH_CORPUS` names the NDJSON file to measure with,
//! `LNSP_BENCH_ROUNDS` the rounds (5). Sides are interleaved and figures are medians. `local` compares with the encoder
//! alone, `llm` with the time that calls to a language model take alone, `pool` with the servers' own throughput,
//! `faults` a service whose language model has faults with one whose model has none.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod child;
mod faults;
mod llm;
mod local;
mod pool;
mod service;

use service::Result;
use std::path::PathBuf;

fn main() -> Result<()> {
    lnsp_ingest::encoder::bound_kernel_caches();
    actix_web::rt::System::new().block_on(bench())
}

async fn bench() -> Result<()> {
    let corpus = std::env::var_os("LNSP_BENCH_CORPUS")
        .map_or_else(|| root().join("tests/data/sample.ndjson"), PathBuf::from);
    let plain = std::fs::read_to_string(&corpus)?;
    let rounds = std::env::var("LNSP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    println!("{} lines of {}, {rounds} rounds", plain.lines().count(), corpus.display());
    // Cargo adds flags of its own.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |part| wanted.as_deref().is_none_or(|wanted| wanted == part);
    if wanted("llm") {
        llm::figures(&plain, rounds).await?;
    }
    if wanted("pool") {
        pool::figures().await?;
    }
    if wanted("faults") {
        faults::figures().await?;
    }
    if wanted("local") {
        local::figures(&plain, rounds).await?;
    }
    Ok(())
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}
