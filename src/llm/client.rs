//! The client of Ollama's HTTP API: version, models, and generation.
//!
//! Ollama omits fields that are zero or empty, so all fields are read with defaults. A response counts only if `done`
//! is true and `done_reason` is `stop`.

use super::answer::{Labels, TokenLogprob, read};
use super::error::LlmError;
use super::prompt::{self, Question};
use super::settings::LlmSettings;
use crate::endpoint::{self, Unread, beginning, cause};
use crate::metrics;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Time limit of calls that a server answers from memory.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of loading a model from disk.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest response body that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// How long the server keeps the model loaded after a call.
const KEEP_ALIVE: &str = "30m";

/// What the server reported in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// The version of Ollama.
    pub version: String,
    /// The model has the capability `thinking`, which each request must turn off.
    pub thinks: bool,
}

/// The client of one server: what it is asked, and how its responses are read. Cheap calls only: it has no queue, no
/// retries and no memory of failures.
pub struct LlmClient {
    http: Client,
    settings: LlmSettings,
}

/// The attempt of a call. The first samples greedily, so equal texts get equal answers. The second follows an unusable
/// answer, so it samples with a temperature and another seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    Second,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct VersionResponse {
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TagsResponse {
    models: Vec<ModelTag>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ModelTag {
    name: String,
    capabilities: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GenerateResponse {
    response: String,
    done: bool,
    done_reason: String,
    prompt_eval_count: u64,
    eval_count: u64,
    logprobs: Vec<TokenLogprob>,
}

#[derive(Deserialize)]
struct ErrorResponse {
    error: String,
}

impl LlmClient {
    /// Builds the HTTP client; makes no call.
    pub fn new(settings: &LlmSettings) -> Result<LlmClient, LlmError> {
        let http = endpoint::client(settings.calls);
        let http = http.map_err(|error| LlmError::Client { problem: cause(&error) })?;
        Ok(LlmClient { http, settings: settings.clone() })
    }

    /// Checks that the server is Ollama and has the model.
    pub async fn inspect(&self) -> Result<ServerInfo, LlmError> {
        let VersionResponse { version } = self.get("/api/version").await?;
        let TagsResponse { models } = self.get("/api/tags").await?;
        let wanted = &self.settings.model;
        let model = models.iter().find(|model| names_model(&model.name, wanted));
        let Some(model) = model else {
            let has = models.into_iter().take(5).map(|model| model.name).collect();
            return Err(LlmError::NoModel { model: wanted.clone(), has });
        };
        Ok(ServerInfo { version, thinks: model.capabilities.iter().any(|can| can == "thinking") })
    }

    /// Checks that the server is Ollama and has the model, and loads the model.
    pub async fn handshake(&self) -> Result<ServerInfo, LlmError> {
        let server = self.inspect().await?;
        // An empty prompt loads the model. This may take minutes, so it is a call with its own time limit.
        let body = self.body("", Attempt::First, &server);
        let loading = self.send("/api/generate", self.http.post(self.at("/api/generate")).json(&body));
        let (_, body) = within(LOAD_TIMEOUT, loading).await?;
        let response: GenerateResponse = read_json("/api/generate", 200, &body)?;
        if response.done { Ok(server) } else { Err(incomplete(&response)) }
    }

    /// Asks the server once.
    pub async fn ask(
        &self,
        question: Question<'_>,
        attempt: Attempt,
        server: &ServerInfo,
    ) -> Result<Labels, LlmError> {
        let body = self.body(&prompt::question(question.text), attempt, server);
        let request = self.http.post(self.at("/api/generate")).json(&body);
        let (status, body) = self.send("/api/generate", request).await?;
        let response: GenerateResponse = read_json("/api/generate", status, &body)?;
        if !response.done || response.done_reason != "stop" {
            return Err(incomplete(&response));
        }
        metrics::llm_tokens(response.prompt_eval_count, response.eval_count);
        Ok(read(&response.response, &response.logprobs)?)
    }

    fn at(&self, path: &str) -> String {
        self.settings.endpoint.at(path)
    }

    /// The body of `/api/generate`. All calls have the same model options, including the one that loads the model:
    /// Ollama reloads a model when they change.
    fn body(&self, question: &str, attempt: Attempt, server: &ServerInfo) -> Value {
        let (temperature, seed) = match attempt {
            Attempt::First => (0.0, 1),
            Attempt::Second => (0.5, 2),
        };
        let mut body = json!({
            "model": self.settings.model, "system": *prompt::INSTRUCTIONS, "prompt": question,
            "format": *prompt::SCHEMA, "stream": false, "truncate": false, "keep_alive": KEEP_ALIVE,
            "logprobs": true,
            "options": {
                "temperature": temperature, "seed": seed,
                "num_predict": prompt::ANSWER_TOKENS, "num_ctx": prompt::CONTEXT_TOKENS,
            },
        });
        if server.thinks {
            // Models without the capability reject the field.
            body["think"] = json!(false);
        }
        body
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &'static str) -> Result<T, LlmError> {
        let (status, body) = within(HANDSHAKE_TIMEOUT, self.send(path, self.http.get(self.at(path)))).await?;
        read_json(path, status, &body)
    }

    /// Sends the request; returns status and body if the status is 200.
    async fn send(&self, path: &'static str, request: RequestBuilder) -> Result<(u16, Vec<u8>), LlmError> {
        let broken = |error: reqwest::Error| LlmError::Connect { problem: cause(&error) };
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let body =
            endpoint::read_body(response, MAX_RESPONSE_BYTES).await.map_err(|unread| match unread {
                Unread::TooLong => LlmError::TooLong { limit: MAX_RESPONSE_BYTES },
                Unread::Broken(error) => broken(error),
            })?;
        if status == 200 {
            return Ok((status, body));
        }
        let said = String::from_utf8_lossy(&body);
        match serde_json::from_slice::<ErrorResponse>(&body) {
            Ok(ErrorResponse { error }) if status == 404 && error.contains("model") => {
                Err(LlmError::NoModel { model: self.settings.model.clone(), has: Vec::new() })
            }
            Ok(ErrorResponse { error }) => Err(LlmError::Status { status, said: beginning(&error) }),
            Err(_) if status < 500 => Err(LlmError::NotOllama { path, status, said: beginning(&said) }),
            Err(_) => Err(LlmError::Status { status, said: beginning(&said) }),
        }
    }
}

/// Whether `name` is the model `wanted`; a name without a tag has the tag `latest`.
fn names_model(name: &str, wanted: &str) -> bool {
    name == wanted || (!wanted.contains(':') && name.strip_suffix(":latest") == Some(wanted))
}

fn incomplete(response: &GenerateResponse) -> LlmError {
    LlmError::Incomplete { done: response.done, reason: beginning(&response.done_reason) }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, LlmError>>) -> Result<T, LlmError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(LlmError::Timeout { limit }))
}

fn read_json<T: for<'a> Deserialize<'a>>(
    path: &'static str,
    status: u16,
    body: &[u8],
) -> Result<T, LlmError> {
    serde_json::from_slice(body).map_err(|_| LlmError::NotOllama {
        path,
        status,
        said: beginning(&String::from_utf8_lossy(body)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert!(names_model("llama3.1:8b", "llama3.1:8b") && names_model("tinyllama:latest", "tinyllama"));
        assert!(
            !names_model("llama3.1:8b", "llama3.1") && !names_model("tinyllama:latest", "tinyllama:1.1b")
        );
    }

    #[test]
    fn all_calls_have_the_same_model_options_except_sampling() {
        let settings = LlmSettings {
            endpoint: "http://localhost:1".parse().unwrap(),
            model: "m".to_owned(),
            calls: 1,
            timeout: LOAD_TIMEOUT,
        };
        let client = LlmClient::new(&settings).unwrap();
        let quiet = ServerInfo { version: String::new(), thinks: false };
        let (load, ask) =
            (client.body("", Attempt::First, &quiet), client.body("x", Attempt::Second, &quiet));
        assert_eq!(load["options"]["num_ctx"], ask["options"]["num_ctx"]);
        assert_eq!(load["system"], ask["system"]);
        assert!(load["think"].is_null());
        assert_eq!(client.body("x", Attempt::First, &ServerInfo { thinks: true, ..quiet })["think"], false);
    }
}
