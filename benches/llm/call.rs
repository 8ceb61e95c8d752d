//! One call to the real server, with its time.

use crate::Result;
use crate::llama_server::LlamaServer;
use crate::recorded::Recorded;
use lnsp_ingest::endpoint;
use serde_json::Value;
use std::time::Instant;

/// A server with a client of its own.
pub struct Caller {
    server: LlamaServer,
    client: reqwest::Client,
}

/// What came of a call.
pub struct Called {
    /// The time of the whole call, in milliseconds.
    pub ms: f64,
    /// The tokens of the answer, as the server counts them.
    pub tokens: f64,
    /// The text of the answer.
    pub answer: String,
}

impl Caller {
    /// A client without proxies, which keeps its connection.
    ///
    /// # Errors
    /// The error of the client.
    pub fn new(server: LlamaServer) -> Result<Caller> {
        Ok(Caller { server, client: endpoint::plain_client(1)? })
    }

    /// Sends a recorded request.
    ///
    /// # Errors
    /// The client's error, or the server's in its own words.
    pub async fn ask(&self, request: &Recorded) -> Result<Called> {
        let body = request.body();
        let started = Instant::now();
        let url = format!("{}/v1/chat/completions", self.server.url);
        let call = self.client.post(url).header("Content-Type", "application/json");
        let response = call.body(body).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if !status.is_success() {
            return Err(format!("the server answered {status}: {text}").into());
        }
        let answer: Value = serde_json::from_str(&text)?;
        let said = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        let tokens = answer["usage"]["completion_tokens"].as_f64().unwrap_or_default();
        Ok(Called { ms, tokens, answer: said })
    }
}

impl Called {
    /// The tokens around names and codes: braces, quotes, member names. Each is a byte with this server's vocabulary.
    pub fn skeleton_tokens(&self) -> f64 {
        let values: usize = match serde_json::from_str::<Value>(&self.answer) {
            Ok(Value::Object(members)) => members.values().map(length).sum(),
            Ok(Value::Array(items)) => items.iter().map(length).sum(),
            _ => 0,
        };
        self.tokens - values as f64
    }
}

fn length(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.to_string().len(), str::len)
}

/// The median of times or ratios.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
