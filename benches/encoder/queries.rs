//! How long a query's vector takes while the corpus streams through the whole service, against a pass of its model.

use crate::service::{Result, Service};
use lnsp_ingest::encoder::plan::{Budget, choose};
use lnsp_ingest::encoder::{ModelFiles, Tokenizer, Tokens};
use lnsp_ingest::threads::Lane;
use lnsp_ingest::vectorizer::EncoderPool;
use serde_json::json;
use std::time::{Duration, Instant};

/// How often the corpus goes through, each time as another dataset.
const UPLOADS: usize = 3;
const QUERY: &str = "When was the old stone bridge over the river rebuilt?";
const BETWEEN_QUERIES: Duration = Duration::from_millis(20);
const PASSES: usize = 40;
const WINDOW: usize = 512;

/// Prints the 50th and 99th percentile over the time of a pass.
pub fn figures(files: &ModelFiles, corpus: &[String]) -> Result<()> {
    actix_web::rt::System::new().block_on(during_ingest(files, corpus))
}

async fn during_ingest(files: &ModelFiles, corpus: &[String]) -> Result<()> {
    let folder = files.folder.display().to_string();
    let service = Service::start(&["--tmd-backend", "local", "--embedding-model", &folder]).await?;
    // Equal texts are chunks of their own.
    let line =
        |(nth, text): (usize, &String)| json!({ "id": nth.to_string(), "text": text }).to_string() + "\n";
    let ndjson: String = corpus.iter().enumerate().map(line).collect();
    service.upload(&ndjson, "warm-up").await?;
    let info = &service.state().info;
    let budget = Budget { tokens: info.pass_tokens, texts: info.pass_texts };
    let local = service.state().vectorizer.model().ok_or("the model is elsewhere")?;
    let mut passes = passes(files, corpus, budget, &local.encoders).await?;
    let pass = percentile(&mut passes, 50);

    let mut took = queries(&service, &ndjson).await?;
    service.stop().await;
    let (p50, p99) = (percentile(&mut took, 50), percentile(&mut took, 99));
    println!("{} queries during {UPLOADS} uploads of {} texts", took.len(), corpus.len());
    println!("figure encoder.pass_ms {:.2} ms", pass * 1e3);
    println!("figure encoder.query_p50_ms {:.2} ms", p50 * 1e3);
    println!("figure encoder.query_p99_ms {:.2} ms", p99 * 1e3);
    println!("figure encoder.query_p50_over_pass {:.3} ratio", p50 / pass);
    println!("figure encoder.query_p99_over_pass {:.3} ratio", p99 / pass);
    Ok(())
}

/// How long each query took while the corpus went through.
async fn queries(service: &Service, ndjson: &str) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    let uploads = async {
        for upload in 0..UPLOADS {
            service.upload(ndjson, &format!("measured-{upload}")).await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let mut uploads = std::pin::pin!(uploads);
    let mut clock = tokio::time::interval(BETWEEN_QUERIES);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // One query at a time, so that none waits for another.
        let query = async {
            clock.tick().await;
            let started = Instant::now();
            service.state().vectorizer.vector(QUERY.to_owned()).await?;
            Ok::<_, Box<dyn std::error::Error>>(started.elapsed().as_secs_f64())
        };
        let mut query = std::pin::pin!(query);
        tokio::select! {
            done = &mut uploads => { done?; break }
            query = &mut query => took.push(query?),
        }
    }
    Ok(took)
}

/// Passes over the corpus as the service plans them, on one of its encoders, nothing else running; seconds each.
async fn passes(
    files: &ModelFiles,
    corpus: &[String],
    budget: Budget,
    model: &EncoderPool,
) -> Result<Vec<f64>> {
    let tokenizer = Tokenizer::load(files)?;
    let mut waiting: Vec<Tokens> = corpus
        .iter()
        .take(WINDOW)
        .map(|text| tokenizer.tokenize(text))
        .collect::<std::result::Result<_, _>>()?;
    let mut took = Vec::new();
    while took.len() < PASSES && !waiting.is_empty() {
        let lengths: Vec<usize> = waiting.iter().map(Tokens::len).collect();
        let mut chosen = choose(&lengths, budget);
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        let pass: Vec<Tokens> = chosen.into_iter().map(|nth| waiting.swap_remove(nth)).collect();
        let work = model.run(Lane::Bulk, move |encoder| {
            let started = Instant::now();
            encoder.encode(&pass.iter().collect::<Vec<_>>()).map(|_| started.elapsed().as_secs_f64())
        });
        took.push(work.await??);
    }
    Ok(took)
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
