//! One of the two services, as its client sees it.

use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};

/// How a service works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One chunk at a time, all the way to its commit.
    Sequential,
    /// As many as there are workers.
    Parallel,
}

impl Mode {
    /// Both modes, in the order in which each round runs them.
    pub const BOTH: [Mode; 2] = [Mode::Sequential, Mode::Parallel];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Sequential => "sequential",
            Mode::Parallel => "parallel",
        })
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error("the {mode} service did not answer")]
    Lost {
        mode: Mode,
        #[source]
        error: reqwest::Error,
    },
    #[error("the {mode} service refused the request: {status} {message}")]
    Refused { mode: Mode, status: u16, message: String },
    #[error(
        "{failed} of {chunks} chunks failed in round {round} ({mode}), the first with: {message}; there is no report"
    )]
    Failed { round: u32, mode: Mode, failed: usize, chunks: usize, message: String },
    #[error(
        "the language model was called {calls} times for {chunks} chunks in round {round} ({mode}), so the times would \
         say nothing; there is no report"
    )]
    Calls { round: u32, mode: Mode, calls: u64, chunks: usize },
    #[error("no numbers from the simulated LLM at {url}")]
    Numbers {
        url: String,
        #[source]
        error: reqwest::Error,
    },
}

/// The answer to `POST /ingest`.
#[derive(Debug, Deserialize)]
pub struct IngestResponse {
    pub results: Vec<BenchResult>,
    pub total_chunks: usize,
    pub successful: usize,
    pub failed: usize,
    pub processing_time_ms: f64,
}

/// What became of a chunk.
#[derive(Debug, Deserialize)]
pub struct BenchResult {
    pub success: bool,
    #[serde(default)]
    pub status: String,
    pub error: Option<String>,
    pub tmd_source: Option<String>,
    #[serde(default)]
    pub timings_ms: Timings,
}

/// Measured by the service, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Timings {
    pub tmd_ms: f64,
    pub embedding_ms: f64,
    pub postgres_ms: f64,
    pub total_ms: f64,
}

/// A running service.
pub struct Service {
    mode: Mode,
    url: String,
    client: reqwest::Client,
}

impl Service {
    pub fn new(mode: Mode, url: String, client: reqwest::Client) -> Self {
        Service { mode, url, client }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A chunk with codes of its own: it opens the connection and wakes the model, and asks no language model.
    pub async fn warm_up(&self, run: &str) -> Result<(), RoundError> {
        let text = format!("The first sentence wakes the service up. ({run})");
        let chunk = json!({"text": text, "domain_code": 0, "task_code": 0, "modifier_code": 0});
        self.ingest(&format!("bench-{run}-warm-up"), vec![chunk]).await.map(drop)
    }

    /// One request; the answer, and how long it took from the first byte sent to the last received.
    pub async fn ingest(
        &self,
        dataset: &str,
        chunks: Vec<Value>,
    ) -> Result<(IngestResponse, Duration), RoundError> {
        let body = json!({"chunks": chunks, "dataset_source": dataset, "skip_cpesh": true}).to_string();
        let request =
            self.client.post(format!("{}/ingest", self.url)).header("Content-Type", "application/json");
        let lost = |error| RoundError::Lost { mode: self.mode, error };
        let started = Instant::now();
        let response = request.body(body).send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(lost)?;
        let took = started.elapsed();
        // A request of which no chunk was good has another status and the same body.
        match serde_json::from_slice(&body) {
            Ok(answer) => Ok((answer, took)),
            Err(_) => {
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let message = body["error"]["message"].as_str().unwrap_or("without a reason").to_owned();
                Err(RoundError::Refused { mode: self.mode, status, message })
            }
        }
    }
}
