//! Requests of the service, recorded by the simulated server.

use crate::Result;
use crate::llama_server::MODEL;
use lnsp_ingest::llm::{AnswerForm, Dialect, Llm, LlmSettings, Wanted};
use lnsp_ingest::simulated_llm::{Latency, Options, ServerApi, SimulatedLlm};
use serde_json::{Value, json};
use std::time::Duration;

/// The body of a request to `/v1/chat/completions`.
#[derive(Clone)]
pub struct Recorded(Value);

/// The first texts of the corpus.
///
/// # Errors
/// The error of the file, or of a line.
pub fn corpus(texts: usize) -> Result<Vec<String>> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sample.ndjson");
    let corpus = std::env::var("LNSP_BENCH_CORPUS").unwrap_or_else(|_| corpus.to_owned());
    let text = |line: &str| {
        let chunk: Value = serde_json::from_str(line)?;
        Ok(chunk["text"].as_str().ok_or("a line of the corpus has no text")?.to_owned())
    };
    std::fs::read_to_string(corpus)?.lines().take(texts).map(text).collect()
}

/// What the service sends for these texts, when a server has no other form than this real one has.
///
/// # Errors
/// The error of the simulated server or of the client.
pub async fn recorded(answer: AnswerForm, texts: &[String]) -> Result<Vec<Recorded>> {
    let options = Options {
        api: ServerApi::JsonObject,
        models: vec![MODEL.to_owned()],
        latency: Latency::Constant(Duration::ZERO),
        ..Options::default()
    };
    let server = SimulatedLlm::start(options)?;
    let llm = Llm::new(&[settings(server.url(), answer)?])?;
    let mut requests = Vec::new();
    for text in texts {
        llm.classify(text, Wanted::Codes).await?;
        let mut request = server.last_request();
        // The service leaves them out where a server refuses them, as this real one does.
        if let Some(members) = request.as_object_mut() {
            members.retain(|name, _| !name.ends_with("logprobs"));
        }
        requests.push(Recorded(request));
    }
    Ok(requests)
}

fn settings(url: &str, answer: AnswerForm) -> Result<LlmSettings> {
    Ok(LlmSettings {
        endpoint: url.parse()?,
        model: MODEL.to_owned(),
        calls: 1,
        timeout: Duration::from_secs(20),
        cpesh_timeout: Duration::from_secs(20),
        dialect: Some(Dialect::JsonObject),
        answer,
        api_key: None,
    })
}

impl Recorded {
    /// The same request for one token: its time is that of the prompt.
    #[must_use]
    pub fn first_token(&self) -> Recorded {
        let mut body = self.0.clone();
        body["max_tokens"] = json!(1);
        Recorded(body)
    }

    /// The same request with the text in front of the constant part.
    #[must_use]
    pub fn text_first(&self) -> Recorded {
        let mut body = self.0.clone();
        if let Some(messages) = body["messages"].as_array_mut() {
            messages.reverse();
        }
        Recorded(body)
    }

    /// The body as it is sent.
    pub fn body(&self) -> String {
        self.0.to_string()
    }
}
