//! One request of ten sentences to one service, and the proof that the language model was asked for each of them.

use super::service::{BenchResult, IngestResponse, Mode, RoundError, Service, Timings};
use crate::simulated_llm::CallCounts;
use serde_json::json;
use std::time::Duration;

/// The sentences of the guide that this benchmark comes from.
pub const SENTENCES: [&str; 10] = [
    "Photosynthesis converts light into chemical energy.",
    "The Eiffel Tower was built in 1889.",
    "Machine learning is a subset of AI.",
    "The human brain has 86 billion neurons.",
    "Quantum mechanics describes atomic behavior.",
    "The Great Barrier Reef is the largest coral reef.",
    "DNA replication copies genetic information.",
    "The Industrial Revolution transformed manufacturing.",
    "Black holes have extremely strong gravity.",
    "Antibiotics target bacterial processes.",
];

/// What was measured in one request.
#[derive(Debug, Clone)]
pub struct Result {
    pub chunks: usize,
    pub successful: usize,
    pub failed: usize,
    /// Calls to the language model.
    pub calls: u64,
    /// As the service measured it.
    pub server: Duration,
    /// As its client did.
    pub client: Duration,
    /// The times of each chunk.
    pub timings: Vec<Timings>,
}

/// Who says how often the language model was called.
pub struct Witness {
    client: reqwest::Client,
    simulated: Option<String>,
}

impl Witness {
    /// The simulated LLM at this address; without one, what the service says about each chunk.
    pub fn new(client: reqwest::Client, simulated: Option<String>) -> Self {
        Witness { client, simulated }
    }

    async fn counts(&self) -> std::result::Result<Option<CallCounts>, RoundError> {
        let Some(url) = &self.simulated else { return Ok(None) };
        let fail = |error| RoundError::Numbers { url: url.clone(), error };
        let response = self.client.get(format!("{url}/counts")).send().await.map_err(fail)?;
        response.error_for_status().map_err(fail)?.json().await.map(Some).map_err(fail)
    }
}

/// Sends the sentences, each with words that no other request has, and checks the answer.
pub async fn run(
    service: &Service,
    witness: &Witness,
    run: &str,
    round: u32,
) -> std::result::Result<Result, RoundError> {
    let mode = service.mode();
    let dataset = format!("bench-{run}-{round}-{mode}");
    let chunks = SENTENCES.map(|sentence| json!({ "text": format!("{sentence} ({run}, {round}, {mode})") }));
    let before = witness.counts().await?;
    let (answer, client) = service.ingest(&dataset, chunks.to_vec()).await?;
    let after = witness.counts().await?;
    let calls = match before.zip(after) {
        Some((before, after)) => after.generate - before.generate,
        None => answer.results.iter().filter(|result| is_from_a_call(result)).count() as u64,
    };
    check(answer, calls, client, (round, mode))
}

/// A known chunk costs no call, whatever its source was.
fn is_from_a_call(result: &BenchResult) -> bool {
    result.status == "stored" && result.tmd_source.as_deref() == Some("llm")
}

fn check(
    answer: IngestResponse,
    calls: u64,
    client: Duration,
    (round, mode): (u32, Mode),
) -> std::result::Result<Result, RoundError> {
    let chunks = SENTENCES.len();
    if let Some(bad) = answer.results.iter().find(|result| !result.success) {
        let message = bad.error.clone().unwrap_or_else(|| "no reason given".to_owned());
        return Err(RoundError::Failed { round, mode, failed: answer.failed, chunks, message });
    }
    let stored = answer.results.iter().filter(|result| result.status == "stored").count();
    if calls != chunks as u64 || stored != chunks {
        return Err(RoundError::Calls { round, mode, calls, chunks });
    }
    Ok(Result {
        chunks: answer.total_chunks,
        successful: answer.successful,
        failed: answer.failed,
        calls,
        server: Duration::try_from_secs_f64(answer.processing_time_ms / 1e3).unwrap_or_default(),
        client,
        timings: answer.results.iter().map(|result| result.timings_ms).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl Fn(usize, &mut serde_json::Value)) -> IngestResponse {
        let results: Vec<_> = (0..10)
            .map(|n| {
                let mut result = json!({
                    "success": true, "status": "stored", "error": null, "tmd_source": "llm", "timings_ms": {"tmd_ms": 887.0},
                });
                change(n, &mut result);
                result
            })
            .collect();
        let failed = results.iter().filter(|result| result["success"] == false).count();
        serde_json::from_value(json!({
            "results": results, "total_chunks": 10, "successful": 10 - failed, "failed": failed, "processing_time_ms": 950.5,
        }))
        .unwrap()
    }

    fn judge(answer: IngestResponse, calls: u64) -> std::result::Result<Result, String> {
        check(answer, calls, Duration::from_secs(1), (2, Mode::Parallel)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_round_counts_when_every_chunk_cost_one_call() {
        let result = judge(answer(|_, _| {}), 10).unwrap();
        assert_eq!((result.chunks, result.successful, result.calls), (10, 10, 10));
        assert_eq!(result.server, Duration::from_micros(950_500));
        assert!(result.timings.iter().all(|timings| timings.tmd_ms == 887.0 && timings.total_ms == 0.0));
    }

    #[test]
    fn other_numbers_of_calls_are_refused_with_both() {
        for calls in [0, 9, 11] {
            let sentence = judge(answer(|_, _| {}), calls).unwrap_err();
            assert!(
                sentence.contains(&format!("called {calls} times for 10 chunks in round 2 (parallel)")),
                "{sentence}"
            );
        }
        let known = answer(|n, result| {
            if n == 3 {
                result["status"] = json!("duplicate");
            }
        });
        assert_eq!(known.results.iter().filter(|result| is_from_a_call(result)).count(), 9);
        assert!(judge(known, 10).is_err(), "a known chunk went another way");
        let local = answer(|n, result| result["tmd_source"] = json!(if n < 4 { "local" } else { "llm" }));
        assert_eq!(local.results.iter().filter(|result| is_from_a_call(result)).count(), 6);
    }

    #[test]
    fn a_failed_chunk_is_refused_with_its_reason() {
        let failed = answer(|n, result| {
            if n > 7 {
                *result = json!({"success": false, "status": "error", "error": "the language model did not answer"});
            }
        });
        let sentence = judge(failed, 10).unwrap_err();
        assert!(
            sentence.contains("2 of 10 chunks") && sentence.contains("the language model did not answer"),
            "{sentence}"
        );
    }
}
