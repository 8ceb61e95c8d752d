//! The index alone, on one thread: searches, filters, and what keeping it costs; hnswlib, usearch and hannoy beside it.

use super::corpus::Corpus;
use super::memory_source::{MemorySource, SHARES, filter};
use super::numbers::{Times, recall};
use super::peers::Peers;
use super::service::Result;
use lnsp_ingest::filter::Filter;
use lnsp_ingest::index::{
    ChangeSource, Commit, Effort, Index, IndexError, IndexIdentity, IndexOptions, NearestItems, NearestQuery,
    VectorKind,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::sync::Arc;
use std::time::Instant;

/// Rows of one commit while the index is filled.
const COMMIT: usize = 256;
const ROUNDS: usize = 5;

pub fn figures(corpus: &Corpus) -> Result<()> {
    let source = MemorySource::new(corpus);
    let folder = tempfile::tempdir()?;
    let identity = IndexIdentity {
        store_id: uuid::Uuid::nil(),
        fingerprint: corpus.fingerprint.clone(),
        dims: corpus.dims,
        kind: VectorKind::Concept,
    };
    let half = corpus.rows.len() / 2;
    let options = IndexOptions::new(folder.path(), identity);
    let started = Instant::now();
    let index = Index::open(options.clone(), Arc::new(source.first(half)))?;
    println!("a new index of {half} rows: {:.2} s", started.elapsed().as_secs_f64());
    fill(&index, &source, half)?;
    let status = index.status();
    println!(
        "{} items, {:.0} bytes of memory an item, map {:.0} MiB",
        status.items,
        status.memory as f64 / corpus.rows.len() as f64,
        status.map_used as f64 / f64::from(1 << 20)
    );
    println!("figure index.bytes_per_item {:.0} bytes", status.map_used as f64 / corpus.rows.len() as f64);
    drop(index);
    let started = Instant::now();
    let index = Index::open(options, Arc::new(MemorySource::new(corpus)))?;
    println!("opened again: {:.2} s", started.elapsed().as_secs_f64());
    searches(&index, corpus)
}

/// The second half comes in commits, with builds as the policy has them.
fn fill(index: &Index, source: &MemorySource, half: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = processor_ms()?;
    runtime.block_on(async {
        for rows in source.rows()[half..].chunks(COMMIT) {
            let slots = index.reserve(rows.len()).await;
            let (after, upto) = (rows[0].seq - 1, rows[rows.len() - 1].seq);
            let history = ChangeSource::clock(source)?.history;
            let commit = Commit { history, after, upto, rows: rows.to_vec(), tombstones: Vec::new() };
            index.apply_committed(slots, commit).map_err(|_| IndexError::Closed)?;
        }
        index.flush().await
    })?;
    let spent = (processor_ms()? - before) / (source.rows().len() - half) as f64;
    println!("figure index.core_ms_per_row {spent:.4} ms ({} builds)", index.status().builds);
    Ok(())
}

/// Processor time of this process.
fn processor_ms() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e3)
}

fn searches(index: &Index, corpus: &Corpus) -> Result<()> {
    let wanted = corpus.nearest(|_| true);
    let everything = Filter::default();
    let ours = round(index, corpus, &everything, Effort::Normal)?;
    println!("figure search.recall_at_10 {:.4}", recall(&ours.found, &wanted));
    let peers = Peers::start(corpus)?;
    let (mut own, mut others) = (Times::default(), peers.as_ref().map(Peers::names).unwrap_or_default());
    let mut peers = peers;
    for _ in 0..ROUNDS {
        let ours = round(index, corpus, &everything, Effort::Normal)?;
        own.add(ours.median);
        if let Some(peers) = &mut peers {
            for (name, recalls, times) in &mut others {
                let (took, found) = peers.round(name, recall(&ours.found, &wanted), &wanted)?;
                times.add(took);
                *recalls = found;
            }
        }
    }
    println!("figure search.inprocess_ms {:.3} ms (p99 of a round {:.3})", own.quantile(0.5), ours.p99);
    for (name, found, times) in &others {
        println!("{name}: {:.3} ms at recall {found:.4}", times.quantile(0.5));
        println!("figure search.inprocess_vs_{name} {:.3} ratio", times.quantile(0.5) / own.quantile(0.5));
    }
    println!("| filter | rows | recall | p50 ms | p99 ms | path |");
    for share in SHARES {
        let wanted = corpus.nearest(|place| place % share == 0);
        let found = round(index, corpus, &filter(share), Effort::Normal)?;
        println!(
            "| one in {share} | {} | {:.4} | {:.3} | {:.3} | {} |",
            corpus.rows.len().div_ceil(share),
            recall(&found.found, &wanted),
            found.median.as_secs_f64() * 1e3,
            found.p99,
            found.path,
        );
    }
    Ok(())
}

/// One search of each query.
struct Round {
    found: Vec<Vec<u32>>,
    median: std::time::Duration,
    p99: f64,
    path: &'static str,
}

fn round(index: &Index, corpus: &Corpus, filter: &Filter, effort: Effort) -> Result<Round> {
    let mut times = Times::default();
    let (mut found, mut path) = (Vec::new(), "");
    for query in &corpus.queries {
        let started = Instant::now();
        let NearestItems { hits, mode, .. } =
            index.search(&NearestQuery { vector: query, filter, k: 10, effort })?;
        times.add(started.elapsed());
        found.push(hits.iter().map(|hit| hit.item).collect());
        path = mode.name();
    }
    let median = std::time::Duration::from_secs_f64(times.quantile(0.5) / 1e3);
    Ok(Round { found, median, p99: times.quantile(0.99), path })
}
