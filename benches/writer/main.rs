//! Figures of the writer: how fast rows become durable, against what PostgreSQL's own tools do with the same rows.
//!
//! `cargo bench --bench writer [PART...]`, the parts being `copy` (the insert path against psql's `\copy`), `staging`
//! (arrays against binary COPY as the way of the rows to the server) and `free` (NDJSON over HTTP to the acknowledgement,
//! with an encoder that costs nothing). `LNSP_BENCH_SCALE` (1.0) makes them smaller. `LNSP_BENCH_BASELINE` names the
//! executable of this bench, or of the bench of uploads, of another version: `free` measures it in turns with this one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

#[path = "../uploads/body.rs"]
#[allow(dead_code, reason = "shared with the bench of uploads")]
mod body;
mod copy;
mod free;
#[path = "../uploads/process.rs"]
#[allow(dead_code, reason = "shared with the bench of uploads")]
mod process;
mod rows;
mod server;
mod staging;
#[path = "../uploads/upload.rs"]
mod upload;
#[path = "../uploads/watch.rs"]
#[allow(dead_code, reason = "shared with the bench of uploads")]
mod watch;

use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PARTS: [&str; 3] = ["copy", "staging", "free"];

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == process::SERVE) {
        return process::serve(&arguments[1..]);
    }
    // Cargo adds flags of its own.
    arguments.retain(|argument| !argument.starts_with('-'));
    if let Some(name) = arguments.iter().find(|name| !PARTS.contains(&name.as_str())) {
        return Err(format!("there is no part '{name}': expected {}", PARTS.join(", ")).into());
    }
    let scale: f64 = std::env::var("LNSP_BENCH_SCALE").ok().map_or(Ok(1.0), |text| text.parse())?;
    let wants = |part: &str| arguments.is_empty() || arguments.iter().any(|name| name == part);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        if wants("copy") || wants("staging") {
            let server = server::BenchServer::start().await?;
            if wants("copy") {
                copy::figures(&server, scale).await?;
            }
            if wants("staging") {
                staging::figures(&server, scale).await?;
            }
        }
        if wants("free") {
            free::figures(scale).await?;
        }
        Ok(())
    })
}

/// The one in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
