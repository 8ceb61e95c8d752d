//! Searches beside an ingest that takes all the encoder can give: by vector, by text, with a filter.

use super::corpus::Corpus;
use super::http::{body, filled, search};
use super::numbers::Times;
use super::service::{Result, Service};
use serde_json::json;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two searches, so that they are clients and not a load of their own.
const PAUSE: Duration = Duration::from_millis(20);
/// Searches of each kind.
const SEARCHES: usize = 400;
/// A search has a filter that one row in so many matches.
const SHARE: usize = 20;

pub async fn figures(corpus: &Corpus) -> Result<()> {
    let service = Rc::new(filled(corpus).await?);
    let pass = one_pass(&service, corpus).await?;
    let upload = tokio::task::spawn_local(ingest(service.clone(), corpus.query_texts.clone()));
    let mut by_vector = [Times::default(), Times::default()];
    let mut by_text = [Times::default(), Times::default()];
    for turn in 0..SEARCHES {
        let query = turn % corpus.queries.len();
        for (place, share) in [None, Some(SHARE)].into_iter().enumerate() {
            by_vector[place].add(search(&service, &body(&corpus.queries[query], share)).await?.0);
            tokio::time::sleep(PAUSE).await;
            let mut text = json!({"query": corpus.query_texts[query], "top_k": 10});
            if let Some(share) = share {
                text["filter"] = json!({"metadata": {format!("in_{share}"): true}});
            }
            by_text[place].add(search(&service, &text.to_string()).await?.0);
            tokio::time::sleep(PAUSE).await;
        }
    }
    upload.abort();
    println!("a pass of the encoder over a full batch takes {pass:.1} ms");
    for (name, times) in [("search.http", &by_vector), ("search.text", &by_text)] {
        println!("{name}: p50 {:.1} ms, with a filter {:.1}", times[0].quantile(0.5), times[1].quantile(0.5));
        println!("figure {name}_p99_ms_under_ingest {:.2} ms", times[0].quantile(0.99));
        println!("figure {name}_p99_ms_under_ingest.filtered {:.2} ms", times[1].quantile(0.99));
    }
    Ok(())
}

/// New chunks without end.
pub async fn ingest(service: Rc<Service>, texts: Vec<String>) {
    for round in 0.. {
        let lines: String = texts
            .iter()
            .enumerate()
            .map(|(n, text)| format!("{}\n", json!({"text": format!("{round}.{n} {text} {text} {text}")})))
            .collect();
        if let Err(error) = service.upload(&lines, "ingest").await {
            eprintln!("the ingest beside the searches: {error}");
            return;
        }
    }
}

/// The time of the longest pass that the service makes: as many texts as its budget takes, on one encoder.
async fn one_pass(service: &Service, corpus: &Corpus) -> Result<f64> {
    let mut times = Times::default();
    let texts: Vec<String> = corpus.query_texts.iter().take(64).cloned().collect();
    for _ in 0..5 {
        let started = Instant::now();
        for vector in service.state().vectorizer.vectors(texts.clone()).await {
            vector?;
        }
        let tokens = texts.len() as f64 * 40.0;
        let share = service.state().info.pass_tokens as f64 / tokens;
        times.add(started.elapsed().mul_f64(share.min(1.0)));
    }
    Ok(times.quantile(0.5))
}
