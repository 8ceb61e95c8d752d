//! The configuration of `lnsp serve`: every setting is a flag and an environment variable of the same meaning.
//!
//! A value that is not allowed stops the start with one sentence that names the variable, the value, and what is
//! allowed.

mod index_settings;
mod parsers;

pub use index_settings::IndexSettings;

use crate::allowed_host::AllowedHost;
use crate::chunk::LabelChoice;
use crate::endpoint::{ApiKey, EndpointList};
use crate::llm::{AnswerForm, Dialect};
use clap::{Args, Command, FromArgMatches};
pub use parsers::InvalidSetting;
use parsers::{parsed, secret, switch, within};
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

/// What numbers of settings are, in sentences.
const NUMBER: &str = "a whole number";
const SECONDS: &str = "a whole number of seconds";

/// What can be set.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to listen on.
    #[arg(long, env = "LNSP_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "LNSP_PORT", default_value = "8004", value_parser = port)]
    pub port: u16,
    /// Hosts that requests may name in `Host`, besides those of loopback, when the service listens on loopback: those
    /// that a proxy passes on, each with or without a port. Separated by commas; `*` allows every host.
    #[arg(
        long,
        env = "LNSP_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_parser = parsed::<AllowedHost>("LNSP_ALLOWED_HOSTS")
    )]
    pub allowed_hosts: Vec<AllowedHost>,
    /// Where PostgreSQL's files (when it is our own) and the index are kept.
    #[arg(long, env = "LNSP_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The settings of the search indexes.
    #[command(flatten)]
    pub index: IndexSettings,
    /// A PostgreSQL of yours, as URL or keywords (also read from PG_DSN); without it the service starts its own.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Which codes chunks get whose request does not say: `all`, `client` (those that a client sends, and no others), or
    /// `none`.
    #[arg(long, env = "LNSP_LABELS", default_value = "all", value_parser = parsed::<LabelChoice>("LNSP_LABELS"))]
    pub labels: LabelChoice,
    /// Where codes come from when the client sends none: `llm`, `local` (the local classifier), `router` (a TMD router),
    /// or `auto`: the language model once it answers and has the model, and the local classifier until then.
    #[arg(long, env = "LNSP_TMD_BACKEND", default_value = "auto", value_parser = tmd_backend)]
    pub tmd_backend: TmdBackend,
    /// Base address of the server of the language model, Ollama or another one with OpenAI's API, or several, separated by commas; `*N` behind one says how many calls it takes
    /// at once, if not as many as LNSP_MAX_PARALLEL_WORKERS.
    #[arg(
        long,
        env = "LNSP_LLM_ENDPOINT",
        default_value = "http://localhost:11434",
        value_parser = parsed::<EndpointList>("LNSP_LLM_ENDPOINT")
    )]
    pub llm_endpoint: EndpointList,
    /// Key that the servers of the language model want, sent as `Authorization: Bearer`.
    #[arg(
        long,
        env = "LNSP_LLM_API_KEY",
        hide_env_values = true,
        value_parser = secret::<ApiKey>("LNSP_LLM_API_KEY")
    )]
    pub llm_api_key: Option<ApiKey>,
    /// How the servers are asked: `ollama`, `json_schema`, `json_object` or `text`; `auto` finds it out.
    #[arg(long, env = "LNSP_LLM_DIALECT", default_value = "auto", value_parser = dialect)]
    pub llm_dialect: DialectChoice,
    /// Base address of the TMD router that `LNSP_TMD_BACKEND=router` asks, or several, as for LNSP_LLM_ENDPOINT.
    #[arg(
        long,
        env = "LNSP_TMD_ROUTER_ENDPOINT",
        default_value = "http://localhost:8002",
        value_parser = parsed::<EndpointList>("LNSP_TMD_ROUTER_ENDPOINT")
    )]
    pub tmd_router_endpoint: EndpointList,
    /// The model that is asked for codes, as the server names it.
    #[arg(long, env = "LNSP_TMD_LLM_MODEL", default_value = "llama3.1:8b", value_parser = model_name)]
    pub tmd_llm_model: String,
    /// How the language model says the codes: by their `names`, or `short`, by their numbers, in a third of the time.
    #[arg(
        long,
        env = "LNSP_TMD_ANSWER",
        default_value = "names",
        value_parser = parsed::<AnswerForm>("LNSP_TMD_ANSWER")
    )]
    pub tmd_answer: AnswerForm,
    /// `full` takes all codes from one source. `hybrid` takes task and modifier from the local classifier, and asks the
    /// language model for the domain only where the classifier is not sure of it.
    #[arg(long, env = "LNSP_TMD_MODE", default_value = "full", value_parser = tmd_mode)]
    pub tmd_mode: TmdMode,
    /// In the mode `full`: asks the local classifier first, and the language model only where it is not sure.
    #[arg(
        long,
        env = "LNSP_TMD_FAST_FIRST",
        default_value = "false",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_TMD_FAST_FIRST")
    )]
    pub tmd_fast_first: bool,
    /// The confidence in the domain from which the local classifier is sure.
    #[arg(
        long,
        env = "LNSP_TMD_FAST_CONF_MIN",
        default_value = "0.60",
        value_parser = within::<f32>("LNSP_TMD_FAST_CONF_MIN", "a number", 0.0..=1.0)
    )]
    pub tmd_fast_conf_min: f32,
    /// Codes of the local classifier, also in place of a language model, are stored from this confidence in the domain on.
    #[arg(
        long,
        env = "LNSP_TMD_LOCAL_MIN_CONFIDENCE",
        default_value = "0",
        value_parser = within::<f32>("LNSP_TMD_LOCAL_MIN_CONFIDENCE", "a number", 0.0..=1.0)
    )]
    pub tmd_local_min_confidence: f32,
    /// When the language model has no answer for a chunk: `local` asks the local classifier and marks the row,
    /// `reject` rejects the chunk, to be sent again.
    #[arg(long, env = "LNSP_TMD_ON_FAILURE", default_value = "local", value_parser = on_failure)]
    pub tmd_on_failure: OnFailure,
    /// Asks the language model again, once it answers, about chunks that came while it was away. Calls of ingest go
    /// first.
    #[arg(
        long,
        env = "LNSP_TMD_REPAIR",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_TMD_REPAIR")
    )]
    pub tmd_repair: bool,
    /// Seconds for one call to the language model.
    #[arg(
        long,
        env = "LNSP_LLM_TIMEOUT_S",
        default_value = "20",
        value_parser = within::<u64>("LNSP_LLM_TIMEOUT_S", SECONDS, 1..=600)
    )]
    pub llm_timeout_s: u64,
    /// Seconds that a chunk waits for the language model: for its turn, all attempts and all questions, together.
    #[arg(
        long,
        env = "LNSP_CHUNK_DEADLINE_S",
        default_value = "120",
        value_parser = within::<u64>("LNSP_CHUNK_DEADLINE_S", SECONDS, 1..=86_400)
    )]
    pub chunk_deadline_s: u64,
    /// MiB of answers of the language model that are kept in the data folder, so that no text is asked about twice; 0
    /// keeps none.
    #[arg(
        long,
        env = "LNSP_LLM_CACHE_MB",
        default_value = "256",
        value_parser = within::<u64>("LNSP_LLM_CACHE_MB", NUMBER, 0..=1_048_576)
    )]
    pub llm_cache_mb: u64,
    /// Has the language model extract concept, question, answer and negatives (CPESH) from chunks that bring none, in the
    /// call that gives the codes.
    #[arg(
        long,
        env = "LNSP_ENABLE_CPESH",
        default_value = "false",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_ENABLE_CPESH")
    )]
    pub enable_cpesh: bool,
    /// Seconds for one call to the language model that asks for CPESH parts.
    #[arg(
        long,
        env = "LNSP_CPESH_TIMEOUT_S",
        default_value = "12",
        value_parser = within::<u64>("LNSP_CPESH_TIMEOUT_S", SECONDS, 1..=600)
    )]
    pub cpesh_timeout_s: u64,
    /// Many chunks at once; `false` takes one chunk at a time all the way to its commit.
    #[arg(
        long,
        env = "LNSP_ENABLE_PARALLEL",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_ENABLE_PARALLEL")
    )]
    pub enable_parallel: bool,
    /// Calls to a language model at the same time, for each server that LNSP_LLM_ENDPOINT gives no number of its own.
    #[arg(
        long,
        env = "LNSP_MAX_PARALLEL_WORKERS",
        default_value = "10",
        value_parser = within::<usize>("LNSP_MAX_PARALLEL_WORKERS", NUMBER, 1..=1024)
    )]
    pub max_parallel_workers: usize,
    /// Many texts in a forward pass; `false` embeds one text at a time.
    #[arg(
        long,
        env = "LNSP_ENABLE_BATCH_EMBEDDINGS",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_ENABLE_BATCH_EMBEDDINGS")
    )]
    pub enable_batch_embeddings: bool,
    /// NDJSON uploads at a time; further ones are refused, with the time after which to come again.
    #[arg(
        long,
        env = "LNSP_MAX_UPLOADS",
        default_value = "64",
        value_parser = within::<usize>("LNSP_MAX_UPLOADS", NUMBER, 1..=10_000)
    )]
    pub max_uploads: usize,
    /// Counts how often each chunk is read by its id or found by a search.
    #[arg(
        long,
        env = "LNSP_ACCESS_COUNTS",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = switch("LNSP_ACCESS_COUNTS")
    )]
    pub access_counts: bool,
    /// Seconds that accepted chunks have to be finished when the service is told to stop.
    #[arg(
        long,
        env = "LNSP_DRAIN_S",
        default_value = "30",
        value_parser = within::<u64>("LNSP_DRAIN_S", SECONDS, 1..=3600)
    )]
    pub drain_s: u64,
    /// Seconds after which a thread or a piece of work that shows no progress is taken to hang. Work is then started
    /// anew; a thread cannot be, and the service exits. Waiting for PostgreSQL or a language model is not hanging.
    #[arg(
        long,
        env = "LNSP_HANG_DEADLINE_S",
        default_value = "120",
        value_parser = within::<u64>("LNSP_HANG_DEADLINE_S", SECONDS, 1..=86_400)
    )]
    pub hang_deadline_s: u64,
    /// A folder in Hugging Face layout, or the name of a model that set-up has fetched. Without it, the model of the
    /// store; for a new store all-minilm-l6-v2.
    #[arg(long, env = "LNSP_EMBEDDING_MODEL")]
    pub embedding_model: Option<String>,
    /// Tokens that the model reads of a text, instead of what its own files say. Vectors made with another number are
    /// those of another model.
    #[arg(
        long,
        env = "LNSP_EMBEDDING_MAX_TOKENS",
        value_parser = within::<usize>("LNSP_EMBEDDING_MAX_TOKENS", NUMBER, 2..=65_536)
    )]
    pub embedding_max_tokens: Option<usize>,
    /// Base address of an embedding server that is asked instead of a model of our own (`POST /embed`): another lnsp,
    /// or one that speaks like the old service's. Several with the same model are separated by commas; `*N` behind one
    /// says how many requests it takes at once, if not four. The model's own settings then have no effect.
    #[arg(long, env = "LNSP_EMBEDDING_ENDPOINT", value_parser = parsed::<EndpointList>("LNSP_EMBEDDING_ENDPOINT"))]
    pub embedding_endpoint: Option<EndpointList>,
    /// `auto`, `cpu`, `mps` or `cuda:N`.
    #[arg(
        long,
        env = "LNSP_DEVICE",
        default_value = "auto",
        value_parser = parsed::<crate::encoder::DeviceChoice>("LNSP_DEVICE")
    )]
    pub device: crate::encoder::DeviceChoice,
    /// `auto` measures at the start; or `f32`, `bf16`.
    #[arg(
        long,
        env = "LNSP_DTYPE",
        default_value = "auto",
        value_parser = parsed::<crate::encoder::DtypeChoice>("LNSP_DTYPE")
    )]
    pub dtype: crate::encoder::DtypeChoice,
}

/// Where codes come from when the client sends none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TmdBackend {
    /// The language model once there is one, and the local classifier until then.
    Auto,
    /// The language model.
    Llm,
    /// The local classifier.
    Local,
    /// A TMD router: the one of the old service, or another service of this kind.
    Router,
}

/// Which codes the local classifier gives beside a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TmdMode {
    /// None: all codes come from one source.
    Full,
    /// Task and modifier, and the domain where it is sure.
    Hybrid,
}

/// What becomes of a chunk for which the language model has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The local classifier answers.
    Local,
    /// It is rejected.
    Reject,
}

impl fmt::Display for TmdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TmdBackend::Auto => "auto",
            TmdBackend::Llm => "llm",
            TmdBackend::Local => "local",
            TmdBackend::Router => "router",
        })
    }
}

fn port(value: &str) -> Result<u16, InvalidSetting> {
    value.parse().map_err(|_| InvalidSetting::new("LNSP_PORT", value, "a whole number from 0 to 65535"))
}

fn tmd_backend(value: &str) -> Result<TmdBackend, InvalidSetting> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(TmdBackend::Auto),
        "llm" => Ok(TmdBackend::Llm),
        "local" => Ok(TmdBackend::Local),
        "router" => Ok(TmdBackend::Router),
        _ => Err(InvalidSetting::new("LNSP_TMD_BACKEND", value, "auto, llm, local or router")),
    }
}

/// `None` is `auto`. A name of its own, because clap takes an `Option` in the struct for a flag without a default.
type DialectChoice = Option<Dialect>;

fn dialect(value: &str) -> Result<DialectChoice, InvalidSetting> {
    if value.trim().eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    let dialect = value.parse::<Dialect>();
    dialect.map(Some).map_err(|error| InvalidSetting::new("LNSP_LLM_DIALECT", value, error.to_string()))
}

/// The old service took every other value for `full`; scripts have `heuristic` there.
fn tmd_mode(value: &str) -> Result<TmdMode, InvalidSetting> {
    match value.to_ascii_lowercase().as_str() {
        "full" | "heuristic" => Ok(TmdMode::Full),
        "hybrid" => Ok(TmdMode::Hybrid),
        _ => Err(InvalidSetting::new("LNSP_TMD_MODE", value, "full or hybrid")),
    }
}

fn on_failure(value: &str) -> Result<OnFailure, InvalidSetting> {
    match value.to_ascii_lowercase().as_str() {
        "local" => Ok(OnFailure::Local),
        "reject" => Ok(OnFailure::Reject),
        _ => Err(InvalidSetting::new("LNSP_TMD_ON_FAILURE", value, "local or reject")),
    }
}

fn model_name(value: &str) -> Result<String, InvalidSetting> {
    let name = value.trim();
    let usable = !name.is_empty() && !name.contains(char::is_whitespace);
    usable.then(|| name.to_owned()).ok_or_else(|| {
        InvalidSetting::new("LNSP_TMD_LLM_MODEL", value, "the name of a model, like llama3.1:8b")
    })
}

/// The value of an environment variable. An empty one counts as unset.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !is_empty(value.as_ref()))
}

/// The command, in which an empty environment variable of a setting counts as unset: its subcommands do not read it.
pub fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|setting| {
        let value = setting.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| is_empty(&value)) { setting.env(None::<&'static str>) } else { setting }
    });
    command.mut_subcommands(without_empty_variables)
}

fn is_empty(value: &OsStr) -> bool {
    value.to_string_lossy().trim().is_empty()
}

impl Config {
    /// The configuration of the environment and the defaults, for commands that have no flags of their own for it.
    ///
    /// # Errors
    /// The sentence about the first value that is not allowed.
    pub fn of_environment() -> Result<Config, String> {
        let command = without_empty_variables(Config::augment_args(Command::new("lnsp")));
        let sentence = |error: clap::Error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| cause.to_string())
        };
        let matches = command.try_get_matches_from(["lnsp"]).map_err(sentence)?;
        Config::from_arg_matches(&matches).map_err(sentence)
    }

    /// The database to use, if it is not our own: `DATABASE_URL`, else `PG_DSN`.
    pub fn database(&self) -> Option<String> {
        let given = self.database_url.clone().or_else(|| variable("PG_DSN"));
        given.filter(|dsn| !dsn.trim().is_empty())
    }
}
