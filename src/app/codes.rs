//! Decides who gives the codes that a client does not send.

use super::llm_settings::llm_settings;
use super::start_error::StartError;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::llm::Llm;
use crate::stages::{CodeSource, LlmFallback};

/// Who gives the codes, and what is to be said about it.
pub struct Codes {
    /// For the first stage.
    pub source: CodeSource,
    /// To be asked how it is.
    pub llm: Option<Llm>,
    /// Source and version.
    pub name: String,
    /// Where a language model was looked for.
    pub endpoint: Option<String>,
    /// Why it was not as it should be.
    pub problem: Option<String>,
}

/// Decides by the configuration and, where it wants a language model, by asking for one now.
pub async fn code_source(
    config: &Config,
    classifier: &str,
    report: &mut dyn FnMut(String),
) -> Result<Codes, StartError> {
    let local = format!("local:{classifier}");
    if config.tmd_backend == TmdBackend::Local {
        return Ok(Codes {
            source: CodeSource::Local,
            llm: None,
            name: local,
            endpoint: None,
            problem: None,
        });
    }
    let calls = if config.enable_parallel { config.max_parallel_workers } else { 1 };
    let settings = llm_settings(config, calls);
    let llm = Llm::new(settings).map_err(StartError::Llm)?;
    let endpoint = Some(config.llm_endpoint.to_string());
    let name = format!("llm:{}", config.tmd_llm_model);
    let otherwise = match config.tmd_on_failure {
        OnFailure::Local => LlmFallback::AskLocally,
        OnFailure::Reject => LlmFallback::Reject,
    };
    let source = CodeSource::Llm { llm: llm.clone(), otherwise };
    let error = match llm.probe().await {
        Ok(server) => {
            report(format!("✅ LLM ready: {} on {server} at {}", llm.model(), llm.endpoint()));
            return Ok(Codes { source, llm: Some(llm), name, endpoint, problem: None });
        }
        Err(error) => error,
    };
    let problem = format!("the LLM at {} {error}", llm.endpoint());
    if config.tmd_backend == TmdBackend::Auto {
        report(format!("⚠️  {problem}; the local classifier gives the codes until the next start"));
        let source = CodeSource::LocalInstead(error.kind());
        return Ok(Codes { source, llm: None, name: local, endpoint, problem: Some(problem) });
    }
    let meanwhile = match otherwise {
        LlmFallback::AskLocally => "the local classifier gives the codes until it answers",
        LlmFallback::Reject => "chunks without codes are rejected until it answers",
    };
    report(format!("⚠️  {problem}; {meanwhile}"));
    Ok(Codes { source, llm: Some(llm), name, endpoint, problem: Some(problem) })
}
