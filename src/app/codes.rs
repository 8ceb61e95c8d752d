//! Decides who gives the codes that a client does not send.

use super::start_error::StartError;
use crate::config::{Config, OnFailure, TmdBackend, TmdMode};
use crate::llm::{Llm, LlmSettings};
use crate::stages::{CodeSource, LlmFallback, LocalFirst};
use std::time::Duration;

/// Who gives the codes, and what is to be said about it.
pub struct Codes {
    /// For the first stage.
    pub source: CodeSource,
    /// To be asked how it is; not available while it is still looked for.
    pub llm: Option<Llm>,
    /// Where a language model is looked for.
    pub endpoint: Option<String>,
}

/// The settings of each server of the language model.
pub fn llm_settings(config: &Config) -> Vec<LlmSettings> {
    let servers = config.llm_endpoint.with_slots(config.max_parallel_workers);
    let settings = servers.map(|(endpoint, slots)| LlmSettings {
        endpoint: endpoint.clone(),
        model: config.tmd_llm_model.clone(),
        calls: if config.enable_parallel { slots } else { 1 },
        timeout: Duration::from_secs(config.llm_timeout_s),
        dialect: config.llm_dialect,
        answer: config.tmd_answer,
        api_key: config.llm_api_key.clone(),
    });
    settings.collect()
}

/// What the local classifier decides before a language model is asked, by the configuration.
pub fn local_first(config: &Config) -> LocalFirst {
    match (config.tmd_mode, config.tmd_fast_first) {
        (TmdMode::Hybrid, _) => LocalFirst::Hybrid(config.tmd_fast_conf_min),
        (TmdMode::Full, true) => LocalFirst::WhenSure(config.tmd_fast_conf_min),
        (TmdMode::Full, false) => LocalFirst::No,
    }
}

/// Decides by the configuration and, where it wants a language model, by asking its servers now.
pub async fn code_source(config: &Config, report: &mut dyn FnMut(String)) -> Result<Codes, StartError> {
    if config.tmd_backend == TmdBackend::Local {
        return Ok(Codes { source: CodeSource::Local, llm: None, endpoint: None });
    }
    let llm = Llm::new(&llm_settings(config)).map_err(StartError::Llm)?;
    let otherwise = match config.tmd_on_failure {
        OnFailure::Local => LlmFallback::AskLocally,
        OnFailure::Reject => LlmFallback::Reject,
    };
    let answers = llm.probe().await;
    let usable = answers.iter().any(|(_, answer)| answer.is_ok());
    let meanwhile = match (usable, config.tmd_backend, otherwise) {
        (true, ..) => "the others are asked until it answers",
        (false, TmdBackend::Auto, _) | (false, _, LlmFallback::AskLocally) => {
            "the local classifier gives the codes until it answers"
        }
        (false, _, LlmFallback::Reject) => "chunks without codes are rejected until it answers",
    };
    for (endpoint, answer) in answers {
        report(match answer {
            Ok(server) => format!("✅ LLM ready: {} on {server} at {endpoint}", llm.model()),
            Err(error) => format!("⚠️  the LLM at {endpoint} {error}; {meanwhile}"),
        });
    }
    if !usable && config.tmd_backend == TmdBackend::Auto {
        llm.set_absent();
    }
    let source = CodeSource::Llm { llm: llm.clone(), otherwise };
    Ok(Codes { source, llm: Some(llm), endpoint: Some(config.llm_endpoint.to_string()) })
}
