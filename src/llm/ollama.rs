//! Ollama's own HTTP API: is it there, does it have the model, and one question.
//!
//! Replies permit out whatever is zero or empty, so everything is read with defaults. Only a reply that says it is
//! done, and done because the model had finished, counts.

use super::answer::{Labels, Token, read};
use super::{LlmError, LlmSettings, Server, prompt};
use crate::endpoint::{self, Unread, beginning, cause};
use crate::metrics;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// For what a server answers from memory.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// For loading a model from disk.
const LOADING: Duration = Duration::from_secs(120);
/// No reply is longer.
const LONGEST_REPLY: usize = 256 * 1024;
/// How long the server is asked to keep the model after a call.
const KEEP_ALIVE: &str = "30m";

pub struct Ollama {
    client: Client,
    settings: LlmSettings,
}

/// The first question for a text is put so that the same text gets the same answer; a second one, because that answer
/// was no use, so that it can be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    Second,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Version {
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tags {
    models: Vec<Model>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Model {
    name: String,
    capabilities: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reply {
    response: String,
    done: bool,
    done_reason: String,
    prompt_eval_count: u64,
    eval_count: u64,
    logprobs: Vec<Token>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Ollama {
    /// For the server of these settings.
    pub fn new(settings: &LlmSettings) -> Result<Ollama, LlmError> {
        let client = endpoint::client(settings.calls);
        let client = client.map_err(|error| LlmError::Client { problem: cause(&error) })?;
        Ok(Ollama { client, settings: settings.clone() })
    }

    /// Whether it is an Ollama and has the model.
    pub async fn look(&self) -> Result<Server, LlmError> {
        let Version { version } = self.get("/api/version").await?;
        let Tags { models } = self.get("/api/tags").await?;
        let wanted = &self.settings.model;
        let model = models.iter().find(|model| names_model(&model.name, wanted));
        let Some(model) = model else {
            let has = models.into_iter().take(5).map(|model| model.name).collect();
            return Err(LlmError::NoModel { model: wanted.clone(), has });
        };
        Ok(Server { version, thinks: model.capabilities.iter().any(|can| can == "thinking") })
    }

    /// Whether it is an Ollama, has the model, and can load it.
    pub async fn introduce(&self) -> Result<Server, LlmError> {
        let server = self.look().await?;
        // An empty prompt loads the model. It is a call of its own, because it may take minutes.
        let body = self.body("", Attempt::First, &server);
        let loading = self.send("/api/generate", self.client.post(self.at("/api/generate")).json(&body));
        let (_, reply) = within(LOADING, loading).await?;
        let reply: Reply = read_json("/api/generate", 200, &reply)?;
        if reply.done { Ok(server) } else { Err(incomplete(&reply)) }
    }

    /// Asks for the labels of one text.
    pub async fn ask(&self, text: &str, attempt: Attempt, server: &Server) -> Result<Labels, LlmError> {
        let body = self.body(&prompt::question(text), attempt, server);
        let request = self.client.post(self.at("/api/generate")).json(&body);
        let (status, reply) = self.send("/api/generate", request).await?;
        let reply: Reply = read_json("/api/generate", status, &reply)?;
        if !reply.done || reply.done_reason != "stop" {
            return Err(incomplete(&reply));
        }
        metrics::llm_tokens(reply.prompt_eval_count, reply.eval_count);
        Ok(read(&reply.response, &reply.logprobs)?)
    }

    fn at(&self, path: &str) -> String {
        self.settings.endpoint.at(path)
    }

    /// One set of options for every call, the loading one included: a server reloads the model when they change.
    fn body(&self, question: &str, attempt: Attempt, server: &Server) -> Value {
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
            // Only said to those who can: others refuse the field.
            body["think"] = json!(false);
        }
        body
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &'static str) -> Result<T, LlmError> {
        let (status, body) = within(INTRODUCTION, self.send(path, self.client.get(self.at(path)))).await?;
        read_json(path, status, &body)
    }

    /// Sends, and reads the whole reply of a good status.
    async fn send(&self, path: &'static str, request: RequestBuilder) -> Result<(u16, Vec<u8>), LlmError> {
        let broken = |error: reqwest::Error| LlmError::Connect { problem: cause(&error) };
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = endpoint::read_body(response, LONGEST_REPLY).await.map_err(|unread| match unread {
            Unread::TooLong => LlmError::TooLong { limit: LONGEST_REPLY },
            Unread::Broken(error) => broken(error),
        })?;
        if status == 200 {
            return Ok((status, body));
        }
        let said = String::from_utf8_lossy(&body);
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error }) if status == 404 && error.contains("model") => {
                Err(LlmError::NoModel { model: self.settings.model.clone(), has: Vec::new() })
            }
            Ok(Refusal { error }) => Err(LlmError::Status { status, said: beginning(&error) }),
            Err(_) if status < 500 => Err(LlmError::NotOllama { path, status, said: beginning(&said) }),
            Err(_) => Err(LlmError::Status { status, said: beginning(&said) }),
        }
    }
}

/// Names without a tag mean the tag `latest`.
fn names_model(name: &str, wanted: &str) -> bool {
    name == wanted || (!wanted.contains(':') && name.strip_suffix(":latest") == Some(wanted))
}

fn incomplete(reply: &Reply) -> LlmError {
    LlmError::Incomplete { done: reply.done, reason: beginning(&reply.done_reason) }
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
    fn all_calls_have_the_same_options_but_for_chance() {
        let settings = LlmSettings {
            endpoint: "http://localhost:1".parse().unwrap(),
            model: "m".to_owned(),
            calls: 1,
            timeout: LOADING,
        };
        let ollama = Ollama::new(&settings).unwrap();
        let quiet = Server { version: String::new(), thinks: false };
        let (load, ask) =
            (ollama.body("", Attempt::First, &quiet), ollama.body("x", Attempt::Second, &quiet));
        assert_eq!(load["options"]["num_ctx"], ask["options"]["num_ctx"]);
        assert_eq!(load["system"], ask["system"]);
        assert!(load["think"].is_null());
        assert_eq!(ollama.body("x", Attempt::First, &Server { thinks: true, ..quiet })["think"], false);
    }
}
