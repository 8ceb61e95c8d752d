//! Uploads of a gigabyte, and small ones that want to become one: anonymous memory of the service, at its peak, over
//! what it has when it is warm and idle.

use super::body::{Packing, Words, lines};
use super::process::Process;
use super::watch::{Peak, anonymous_memory, mib};
use super::{Result, scaled, upload};
use bytes::Bytes;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

/// A gigabyte in long lines, and their length.
const LONG: usize = 17_000;
const LONG_BYTES: usize = 60_000;
/// A gigabyte in short ones.
const SHORT: usize = 2_500_000;
const SHORT_BYTES: usize = 320;

/// With the real model, which reads the first 256 tokens of each.
pub async fn long(scale: f64, packings: &[Packing]) -> Result<()> {
    let chunks = scaled(LONG, scale);
    for packing in packings {
        let service = Process::real(&[])?;
        let line = |n: usize, to: &mut Vec<u8>| {
            write!(to, "{{\"text\":\"Long text {n}: ").unwrap_or_default();
            Words::new(n).write(LONG_BYTES, to);
            to.extend_from_slice(b"\"}\n");
        };
        measure("long", &service, *packing, chunks, line, 200).await?;
    }
    Ok(())
}

/// With the client's codes and a scripted encoder.
pub async fn short(scale: f64, packings: &[Packing]) -> Result<()> {
    let chunks = scaled(SHORT, scale);
    for packing in packings {
        let service = Process::scripted(&[])?;
        let line = |n: usize, to: &mut Vec<u8>| {
            let codes =
                format!("\"domain_code\":{},\"task_code\":{},\"modifier_code\":{}", n % 16, n % 32, n % 64);
            write!(to, "{{{codes},\"text\":\"Short text {n}: ").unwrap_or_default();
            Words::new(n).write(SHORT_BYTES, to);
            to.extend_from_slice(b"\"}\n");
        };
        measure("short", &service, *packing, chunks, line, 20_000).await?;
    }
    Ok(())
}

/// Uploads `chunks` lines after `warm` others.
async fn measure(
    part: &str,
    service: &Process,
    packing: Packing,
    chunks: usize,
    line: impl Fn(usize, &mut Vec<u8>) + Clone + Send + 'static,
    warm: usize,
) -> Result<()> {
    let name = packing.name();
    let warming = line.clone();
    // Other texts than the measured ones.
    let warming = lines(warm, packing, move |n, to| warming(usize::MAX - n, to))?;
    upload::send(&service.url, "warm", packing, warming, warm).await?;
    let idle = idle_memory(service).await?;
    let peak = Peak::of_memory(service.pid());
    let progress = std::env::var_os("LNSP_BENCH_WATCH").map(|_| watch_out(service.pid(), idle));
    let report = upload::send(&service.url, part, packing, lines(chunks, packing, line)?, chunks).await?;
    drop(progress);
    let growth = peak.end().saturating_sub(idle);
    println!(
        "{part}.{name}: {chunks} lines in {:.1} s, {:.1} MiB when idle",
        report.took.as_secs_f64(),
        mib(idle)
    );
    println!("figure uploads.{part}.{name}.growth_mib {:.1} MiB", mib(growth));
    println!(
        "figure uploads.{part}.{name}.lines_per_s {:.1} lines/s",
        chunks as f64 / report.took.as_secs_f64()
    );
    Ok(())
}

/// What it has when nothing happens any more: all in the index, and memory does not move.
pub async fn idle_memory(service: &Process) -> Result<u64> {
    let client = lnsp_ingest::endpoint::client_builder().build()?;
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let health: Value = client.get(format!("{}/health", service.url)).send().await?.json().await?;
        let now = anonymous_memory(service.pid())?;
        if health["index"]["in_memory"] == 0 && now.abs_diff(before) < 1 << 20 {
            return Ok(now);
        }
        before = now;
    }
}

/// Prints the growth now and then.
fn watch_out(pid: u32, idle: u64) -> Peak {
    let started = std::time::Instant::now();
    let said = std::sync::atomic::AtomicU64::new(0);
    Peak::of(move || {
        let (now, second) = (anonymous_memory(pid).ok()?, started.elapsed().as_secs());
        if second >= said.load(std::sync::atomic::Ordering::Relaxed) + 5 {
            said.store(second, std::sync::atomic::Ordering::Relaxed);
            println!("  {second} s: {:.1} MiB over idle", mib(now.saturating_sub(idle)));
        }
        Some(now)
    })
}

/// A mebibyte of body with a gibibyte of zeros in it.
pub async fn bomb(packings: &[Packing]) -> Result<()> {
    let packings: Vec<Packing> = packings.iter().copied().filter(|p| *p != Packing::Identity).collect();
    if packings.is_empty() {
        return Ok(());
    }
    let service = Process::real(&[])?;
    let coded = |n: usize, to: &mut Vec<u8>| {
        writeln!(to, "{{\"text\":\"Fact {n}.\",\"domain_code\":1,\"task_code\":1,\"modifier_code\":1}}")
            .unwrap_or_default();
    };
    for packing in packings {
        let dataset = format!("warm-{}", packing.name());
        upload::send(&service.url, &dataset, packing, lines(500, packing, coded)?, 500).await?;
        let idle = idle_memory(&service).await?;
        let peak = Peak::of_memory(service.pid());
        let member = Bytes::from(zeros(packing, 16 << 20)?);
        let (sent, times) = (member.len() * 64, 64);
        let body = futures_util::stream::iter(std::iter::repeat_n(member, times).map(Ok));
        let report = upload::talk(&service.url, "bomb", packing, body, |_| Ok(())).await?;
        let growth = peak.end().saturating_sub(idle);
        if report.summary["error"]["code"] != "inflate_ratio" || report.summary["stored"] != 0 {
            return Err(format!("expected a cut, received {}", report.summary).into());
        }
        println!("bomb.{}: {sent} bytes that inflate to 1 GiB, cut with inflate_ratio", packing.name());
        println!("figure uploads.bomb.{}.growth_mib {:.1} MiB", packing.name(), mib(growth));
    }
    Ok(())
}

fn zeros(packing: Packing, bytes: usize) -> Result<Vec<u8>> {
    let zeros = vec![0; bytes];
    if packing == Packing::Zstd {
        return Ok(zstd::encode_all(zeros.as_slice(), 3)?);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&zeros)?;
    Ok(encoder.finish()?)
}
