//! NDJSON over loopback to the acknowledgement, with an encoder that costs nothing: what everything else takes. The
//! client is this process, and shares the processors with the service and its PostgreSQL.

use super::body::{Packing, lines};
use super::process::Process;
use super::{Result, median, upload};
use std::io::Write;
use std::path::PathBuf;

const ROWS: usize = 50_000;
const ROUNDS: usize = 3;

pub async fn figures(scale: f64) -> Result<()> {
    let count = ((ROWS as f64 * scale) as usize).max(1);
    let baseline = std::env::var_os("LNSP_BENCH_BASELINE").map(PathBuf::from);
    let (mut rates, mut before) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if let Some(program) = &baseline {
            before.push(rate(&Process::scripted_by(program, &[])?, count).await?);
            println!("round {round}: {:.0} rows/s before", before.last().copied().unwrap_or_default());
        }
        rates.push(rate(&Process::scripted(&[])?, count).await?);
        println!("round {round}: {:.0} rows/s", rates.last().copied().unwrap_or_default());
    }
    let rate = median(&mut rates);
    println!("figure ingest.free_encoder_rows_per_s {rate:.0} rows/s ({count} rows)");
    if baseline.is_some() {
        let before = median(&mut before);
        println!("figure ingest.free_encoder_before_rows_per_s {before:.0} rows/s");
        println!("figure ingest.free_encoder_gain {:.2} x", rate / before);
    }
    Ok(())
}

/// Rows a second of a service that is new, after some that warm it.
async fn rate(service: &Process, count: usize) -> Result<f64> {
    for (dataset, count) in [("warm-up", count / 25 + 1), ("measured", count)] {
        let body = lines(count, Packing::Identity, move |n, line| {
            let codes = "\"domain_code\":0,\"task_code\":0,\"modifier_code\":0";
            // Into memory.
            drop(writeln!(line, "{{\"text\":\"Row {n}.\",{codes}}}"));
        })?;
        let report = upload::send(&service.url, dataset, Packing::Identity, body, count).await?;
        if dataset == "measured" {
            return Ok(count as f64 / report.took.as_secs_f64());
        }
    }
    Err("nothing was measured".into())
}
