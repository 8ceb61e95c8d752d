//! Figures about uploads and exports that are large, hostile, or many: what they cost in memory, and what they do to each other.
//!
//! `cargo bench --bench uploads [PART...]`, the parts being `long`, `short`, `bomb`, `beside`, `idle`,
//! `overload`, `hostile`, `known` and `export`,
//! and of the first three also `long.gzip` and the like. `LNSP_BENCH_SCALE` (1.0) makes them smaller, and what was
//! run is printed. Every service is a process of its own: its memory is what `/proc` says of it, and nothing else.
//!
//! What memory is, and what was tried to keep it down, with what that did: see [`gigabyte`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod beside;
mod body;
mod export;
mod gigabyte;
mod hostile;
mod idle;
mod known;
mod overload;
mod process;
mod upload;
mod watch;

use body::Packing;
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == process::SERVE) {
        return process::serve(&arguments[1..]);
    }
    // Cargo adds flags of its own.
    arguments.retain(|argument| !argument.starts_with('-'));
    let unknown = arguments.iter().find(|name| !PARTS.contains(&name.split('.').next().unwrap_or_default()));
    if let Some(name) = unknown {
        return Err(format!("there is no part '{name}': expected {}", PARTS.join(", ")).into());
    }
    watch::raise_descriptor_limit()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench(&arguments))
}

const PARTS: [&str; 9] =
    ["long", "short", "bomb", "beside", "idle", "overload", "hostile", "known", "export"];

async fn bench(wanted: &[String]) -> Result<()> {
    let scale: f64 = std::env::var("LNSP_BENCH_SCALE").ok().map_or(Ok(1.0), |text| text.parse())?;
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
    let packings = |part: &str| -> Vec<Packing> {
        let named = |packing: &Packing| wanted.contains(&format!("{part}.{}", packing.name()));
        Packing::ALL.into_iter().filter(|packing| wants(part) || named(packing)).collect()
    };
    gigabyte::long(scale, &packings("long")).await?;
    gigabyte::short(scale, &packings("short")).await?;
    gigabyte::bomb(&packings("bomb")).await?;
    if wants("beside") {
        beside::figures(scale).await?;
    }
    if wants("idle") {
        idle::figures(scale).await?;
    }
    if wants("overload") {
        overload::figures(scale).await?;
    }
    if wants("hostile") {
        hostile::figures(scale).await?;
    }
    if wants("known") {
        known::figures(scale)?;
    }
    if wants("export") {
        export::figures(scale).await?;
    }
    Ok(())
}

/// `count` made smaller, but not to nothing.
fn scaled(count: usize, scale: f64) -> usize {
    ((count as f64 * scale) as usize).max(1)
}
