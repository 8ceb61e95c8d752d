//! Whether memory grows: fifteen minutes of ingest, with searches by vector, by text, by words and with filters beside it.

use super::corpus::Corpus;
use super::http::{body, search};
use super::ingest::ingest;
use super::service::{Result, Service};
use serde_json::json;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long it runs.
const RUN: Duration = Duration::from_secs(15 * 60);
/// Between two searches.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two lines of the report.
const STEP: Duration = Duration::from_secs(60);
/// Rows after which the service is warm: growth counts from here.
const WARM: i64 = 20_000;

/// Prints by which share the anonymous memory has grown at its largest, over that of the warm service, and what of it the
/// rows in memory are, which grow with the store.
pub async fn figures(corpus: &Corpus) -> Result<()> {
    let service = Rc::new(Service::start(&["--tmd-backend", "local"]).await?);
    let upload = tokio::task::spawn_local(ingest(service.clone(), corpus.query_texts.clone()));
    let (started, mut next) = (Instant::now(), STEP);
    let (mut warm, mut largest) = (None, 0f64);
    let mut turn = 0;
    while started.elapsed() < RUN {
        let query = turn % corpus.queries.len();
        let text = &corpus.query_texts[query];
        let request = match turn % 4 {
            0 => body(&corpus.queries[query], None),
            1 => json!({"query": text, "mode": "hybrid"}).to_string(),
            2 => json!({"query": text, "filter": {"domain": query % 16}}).to_string(),
            _ => json!({"query": text, "collapse": "text"}).to_string(),
        };
        search(&service, &request).await?;
        turn += 1;
        tokio::time::sleep(PAUSE).await;
        if started.elapsed() >= next {
            next += STEP;
            let status = service.state().index.status();
            let index = status.memory as f64 / f64::from(1 << 20);
            let rest = anonymous_mib()? - index;
            println!(
                "after {} rows and {turn} searches: {rest:.0} MiB, and {index:.0} MiB of rows",
                status.applied_seq
            );
            if status.applied_seq >= WARM {
                warm.get_or_insert(rest);
                largest = largest.max(rest);
            }
        }
    }
    upload.abort();
    let warm = warm.ok_or("too few rows were stored to be warm")?;
    println!("figure search.soak_growth {:.4} share", largest / warm - 1.0);
    Ok(())
}

fn anonymous_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
