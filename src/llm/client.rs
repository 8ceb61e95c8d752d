//! The client of one server: what software it is, how it is asked, and one call.

use super::answer::{Labels, read};
use super::dialect::{Attempt, Dialect, Generated, ModelRequest, Parameters, Thinking, load};
use super::error::LlmError;
use super::model_name::same_for_ollama;
use super::prompt::{self, PROBE};
use super::question::{Question, Wanted};
use super::settings::LlmSettings;
use super::transport::{MAX_RESPONSE_BYTES, Transport, foreign, read_json, within};
use crate::answer_cache::AnswerKey;
use crate::metrics;
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Time limit of calls that a server answers from memory.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of loading a model from disk.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The most calls of a handshake in one dialect: each parameter may be refused once, and each answer asked for twice.
const PROBES: usize = 10;
/// Errors in a row that call the dialect in question.
const DOUBTS: u32 = 3;

/// What software a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSoftware {
    /// Ollama.
    Ollama {
        /// Its version.
        version: String,
    },
    /// Another server with OpenAI's API.
    OpenAi,
}

/// What a handshake found: how the server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// The software.
    pub software: ServerSoftware,
    /// The dialect in which it gave a usable answer.
    pub dialect: Dialect,
    /// The parameters that it takes.
    pub parameters: Parameters,
    /// The digest of the model, where the server tells it.
    pub digest: Option<String>,
}

/// The client of one server: what it is asked, and how its responses are read. It has no queue, no retries and no
/// breaker.
pub struct LlmClient {
    transport: Transport,
    settings: LlmSettings,
    doubts: AtomicU32,
}

/// A server that has the model.
struct FoundServer {
    software: ServerSoftware,
    parameters: Parameters,
    digest: Option<String>,
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
    digest: Option<String>,
    /// Ollama sends it from 0.30 on.
    capabilities: Option<Vec<String>>,
}

/// The response of `/api/show`, which has the capabilities from Ollama 0.6.4 on.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ShowResponse {
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct ModelsResponse {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
}

impl fmt::Display for ServerSoftware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerSoftware::Ollama { version } => write!(f, "Ollama {version}"),
            ServerSoftware::OpenAi => f.write_str("a server with OpenAI's API"),
        }
    }
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.software.fmt(f)?;
        match (&self.software, self.dialect) {
            (ServerSoftware::Ollama { .. }, Dialect::Ollama) => {}
            (_, dialect) => write!(f, " ({dialect})")?,
        }
        match self.parameters.thinking {
            Thinking::None => Ok(()),
            thinking => write!(f, ", thinking: {thinking}"),
        }
    }
}

impl LlmClient {
    /// Builds the HTTP client; makes no call.
    ///
    /// # Errors
    /// [`LlmError::Client`] when the HTTP client cannot be built.
    pub fn new(settings: &LlmSettings) -> Result<LlmClient, LlmError> {
        let transport = Transport::new(settings)?;
        let endpoint = &settings.endpoint;
        if settings.api_key.is_some() && endpoint.is_exposed() {
            tracing::warn!(
                "the key for the LLM at {endpoint} can be read on the way: use an https:// address"
            );
        }
        Ok(LlmClient { transport, settings: settings.clone(), doubts: AtomicU32::new(0) })
    }

    /// Finds out what software the server is, and checks that it has the model, without loading it.
    ///
    /// # Errors
    /// [`LlmError`] of the first call that fails.
    pub async fn inspect(&self) -> Result<ServerSoftware, LlmError> {
        Ok(self.find().await?.software)
    }

    /// Finds out what software the server is, checks that it has the model, loads the model, and finds the dialect: the
    /// first in which the server gives a usable answer about a short text.
    ///
    /// # Errors
    /// [`LlmError`] of the call that failed; [`LlmError::NoDialect`] when several dialects failed.
    pub async fn handshake(&self) -> Result<ServerInfo, LlmError> {
        let FoundServer { software, parameters, digest } = self.find().await?;
        let loads = matches!(software, ServerSoftware::Ollama { .. });
        if loads {
            self.load().await?;
        }
        let dialects: &[Dialect] = match (self.settings.dialect, &software) {
            (Some(dialect), _) => &[dialect],
            (None, ServerSoftware::Ollama { .. }) => &[Dialect::Ollama],
            (None, ServerSoftware::OpenAi) => &[Dialect::JsonSchema, Dialect::JsonObject, Dialect::Text],
        };
        // Other servers may load the model with the first call.
        let limit = if loads { self.settings.timeout } else { self.settings.timeout.max(LOAD_TIMEOUT) };
        let mut tried = Vec::new();
        for dialect in dialects {
            let (software, digest) = (software.clone(), digest.clone());
            let info = ServerInfo { software, dialect: *dialect, parameters, digest };
            match within(limit, self.settle(info)).await {
                Ok(info) => {
                    self.doubts.store(0, Ordering::Relaxed);
                    return Ok(info);
                }
                Err(error) if dialects.len() == 1 || !speaks_of_the_dialect(&error) => return Err(error),
                Err(error) => tried.push(format!("{dialect}: {error}")),
            }
        }
        Err(LlmError::NoDialect { tried: tried.join("; ") })
    }

    /// Asks the server once.
    ///
    /// # Errors
    /// [`LlmError`] of the call or of its answer.
    pub async fn ask(
        &self,
        question: Question<'_>,
        attempt: Attempt,
        server: &ServerInfo,
    ) -> Result<Labels, LlmError> {
        let asked = self.generate(question, attempt, server).await.and_then(|(labels, _)| labels);
        match &asked {
            Ok(_) => self.doubts.store(0, Ordering::Relaxed),
            Err(error) if error.doubts_the_dialect() => {
                self.doubts.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        asked
    }

    /// Whether the last calls failed in a way that a new handshake may cure: the server was updated, or another one
    /// answers at its address. True once; then such calls are counted anew.
    pub fn take_doubts(&self) -> bool {
        let count = |doubts: u32| (doubts >= DOUBTS).then_some(0);
        self.doubts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }

    /// One call. The inner result is that of reading the answer; beside it stands what the server generated.
    pub async fn generate(
        &self,
        question: Question<'_>,
        attempt: Attempt,
        server: &ServerInfo,
    ) -> Result<(Result<Labels, LlmError>, Generated), LlmError> {
        let dialect = server.dialect;
        let shape = dialect.shape(question.wanted, self.settings.answer);
        // With log probabilities, a token takes up to 300 bytes.
        let longest = if shape.has_cpesh() { 4 * MAX_RESPONSE_BYTES } else { MAX_RESPONSE_BYTES };
        let body = self.body(question, attempt, server)?;
        let body = self.transport.post(dialect.path(), body, longest).await?;
        let generated = dialect.read(&body).map_err(|_| foreign(dialect.path(), &body))?;
        metrics::llm_tokens(generated.prompt_tokens, generated.answer_tokens);
        let labels = if generated.thought && generated.text.trim().is_empty() {
            Err(LlmError::ThinkingOnly { reason: generated.reason.clone() })
        } else if !generated.done {
            Err(LlmError::Incomplete { reason: generated.reason.clone() })
        } else {
            read(&generated.text, &generated.tokens, shape, question.text).map_err(LlmError::Answer)
        };
        Ok((labels, generated))
    }

    fn body(
        &self,
        question: Question<'_>,
        attempt: Attempt,
        server: &ServerInfo,
    ) -> Result<Vec<u8>, LlmError> {
        let shape = server.dialect.shape(question.wanted, self.settings.answer);
        let request = ModelRequest {
            model: &self.settings.model,
            system: prompt::instructions(shape),
            user: &prompt::user_prompt(question.text),
            shape,
            attempt,
        };
        server.dialect.body(&request, server.parameters)
    }

    /// The key of the answer to a question: the whole request (prompt, schema, options, the name of the model), and the
    /// digest of the model.
    pub fn answer_key(&self, question: Question<'_>, server: &ServerInfo) -> Option<AnswerKey> {
        let body = self.body(question, Attempt::First, server).ok()?;
        let path = server.dialect.path().as_bytes();
        Some(AnswerKey::of(&[path, server.digest.as_deref().unwrap_or_default().as_bytes(), &body]))
    }

    /// Asks in a dialect until an answer is usable: without parameters that the server refuses, and with thoughts turned
    /// off where the model has some.
    async fn settle(&self, mut info: ServerInfo) -> Result<ServerInfo, LlmError> {
        let question = Question { text: PROBE, wanted: Wanted::Codes };
        let mut attempt = Attempt::First;
        for _ in 0..PROBES {
            let error = match self.generate(question, attempt, &info).await {
                Ok((labels, generated)) => {
                    if let Some(parameters) = Some(info.parameters)
                        .filter(|_| generated.thought)
                        .and_then(Parameters::after_thoughts)
                    {
                        info.parameters = parameters;
                        continue;
                    }
                    match labels {
                        Ok(_) => return Ok(info),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let refused = match &error {
                LlmError::Status { status: 400 | 422 | 500, said, .. } => {
                    info.parameters.without_refused(said)
                }
                _ => None,
            };
            match (refused, attempt) {
                (Some(parameters), _) => info.parameters = parameters,
                (None, Attempt::First)
                    if matches!(error, LlmError::Answer(_) | LlmError::Incomplete { .. }) =>
                {
                    attempt = Attempt::Second;
                }
                (None, _) => return Err(error),
            }
        }
        Err(LlmError::ThinkingOnly { reason: "the handshake came to no end".to_owned() })
    }

    async fn find(&self) -> Result<FoundServer, LlmError> {
        let version = self.transport.get::<VersionResponse>("/api/version", HANDSHAKE_TIMEOUT).await;
        match version {
            Ok(VersionResponse { version }) if !version.is_empty() => {
                let (parameters, digest) = self.ollama_model().await?;
                return Ok(FoundServer { software: ServerSoftware::Ollama { version }, parameters, digest });
            }
            Ok(_) | Err(LlmError::Foreign { .. } | LlmError::Status { .. } | LlmError::NoModel { .. }) => {}
            Err(error) => return Err(error),
        }
        let ModelsResponse { data } = self.transport.get("/v1/models", HANDSHAKE_TIMEOUT).await?;
        let wanted = &self.settings.model;
        // A list without entries says nothing.
        if data.is_empty() || data.iter().any(|entry| entry.id == *wanted) {
            let parameters = Parameters::default();
            return Ok(FoundServer { software: ServerSoftware::OpenAi, parameters, digest: None });
        }
        let has = data.into_iter().take(5).map(|entry| entry.id).collect();
        Err(LlmError::NoModel { model: wanted.clone(), has, ollama: false })
    }

    /// Checks that Ollama has the model, and whether it thinks; gives its digest too.
    async fn ollama_model(&self) -> Result<(Parameters, Option<String>), LlmError> {
        let TagsResponse { models } = self.transport.get("/api/tags", HANDSHAKE_TIMEOUT).await?;
        let wanted = &self.settings.model;
        let Some(model) = models.iter().find(|model| same_for_ollama(&model.name, wanted)) else {
            let has = models.into_iter().take(5).map(|model| model.name).collect();
            return Err(LlmError::NoModel { model: wanted.clone(), has, ollama: true });
        };
        let capabilities = match &model.capabilities {
            Some(capabilities) => capabilities.clone(),
            None => self.shown_capabilities().await?,
        };
        let thinks = capabilities.iter().any(|can| can == "thinking");
        let thinking = if thinks { Thinking::TurnedOff } else { Thinking::None };
        Ok((Parameters { thinking, ..Parameters::default() }, model.digest.clone()))
    }

    /// The capabilities in `/api/show`; none where it is not known. Old versions have no thinking models.
    async fn shown_capabilities(&self) -> Result<Vec<String>, LlmError> {
        let body = json!({ "model": self.settings.model }).to_string().into_bytes();
        // The response has the licence and the vocabulary of the model.
        let longest = 64 * MAX_RESPONSE_BYTES;
        match within(HANDSHAKE_TIMEOUT, self.transport.post("/api/show", body, longest)).await {
            Ok(body) => Ok(read_json::<ShowResponse>("/api/show", &body).unwrap_or_default().capabilities),
            Err(
                error @ (LlmError::Connect { .. } | LlmError::Timeout { .. } | LlmError::Unauthorized { .. }),
            ) => Err(error),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Loads the model. This may take minutes, so it is a call with its own time limit.
    async fn load(&self) -> Result<(), LlmError> {
        let path = Dialect::Ollama.path();
        let shape = Dialect::Ollama.shape(Wanted::Codes, self.settings.answer);
        let (model, system) = (&*self.settings.model, prompt::instructions(shape));
        let request = ModelRequest { model, system, user: "", shape, attempt: Attempt::First };
        let body = serde_json::to_vec(&load(&request));
        let body = body.map_err(|error| LlmError::Client { problem: error.to_string() })?;
        let body = within(LOAD_TIMEOUT, self.transport.post(path, body, MAX_RESPONSE_BYTES)).await?;
        // `done` with the reason `load`.
        let loaded: serde_json::Value = read_json(path, &body)?;
        match loaded["done"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(LlmError::Incomplete { reason: format!("done: {}", loaded["done"]) }),
        }
    }
}

/// Whether another dialect can help.
fn speaks_of_the_dialect(error: &LlmError) -> bool {
    match error {
        LlmError::Answer(_)
        | LlmError::Incomplete { .. }
        | LlmError::ThinkingOnly { .. }
        | LlmError::Foreign { .. }
        | LlmError::TooLong { .. } => true,
        LlmError::Status { status, .. } => *status != 429 && *status < 502,
        _ => false,
    }
}
