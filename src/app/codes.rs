//! Decides who gives the codes that a client does not send.

use super::llm_settings::llm_settings;
use super::start_error::StartError;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::llm::Llm;
use crate::router::{RouterSettings, TmdRouter};
use crate::stages::{CodeSource, LlmFallback};
use std::time::Duration;

/// Who gives the codes, and what is to be said about it.
pub struct Codes {
    /// For the first stage.
    pub source: CodeSource,
    /// To be asked how it is; not available while it is still looked for.
    pub llm: Option<Llm>,
    /// The TMD routers, where they give the codes.
    pub router: Option<TmdRouter>,
    /// Where a language model is looked for.
    pub endpoint: Option<String>,
}

/// Decides by the configuration and, where it wants a language model, by asking its servers now.
pub async fn code_source(config: &Config, report: &mut dyn FnMut(String)) -> Result<Codes, StartError> {
    if config.tmd_backend == TmdBackend::Local {
        return Ok(Codes { source: CodeSource::Local, llm: None, router: None, endpoint: None });
    }
    let otherwise = match config.tmd_on_failure {
        OnFailure::Local => LlmFallback::AskLocally,
        OnFailure::Reject => LlmFallback::Reject,
    };
    if config.tmd_backend == TmdBackend::Router {
        return routers(config, otherwise, report).await;
    }
    let llm = Llm::new(&llm_settings(config)).map_err(StartError::Llm)?;
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
    Ok(Codes { source, llm: Some(llm), router: None, endpoint: Some(config.llm_endpoint.to_string()) })
}

/// TMD routers as the source, asked now whether they are there.
async fn routers(
    config: &Config,
    otherwise: LlmFallback,
    report: &mut dyn FnMut(String),
) -> Result<Codes, StartError> {
    let servers = config.tmd_router_endpoint.with_slots(config.max_parallel_workers);
    let servers: Vec<RouterSettings> = servers
        .map(|(endpoint, slots)| RouterSettings {
            endpoint: endpoint.clone(),
            calls: if config.enable_parallel { slots } else { 1 },
            timeout: Duration::from_secs(config.llm_timeout_s),
        })
        .collect();
    let router = TmdRouter::new(&servers).map_err(StartError::Router)?;
    let meanwhile = match otherwise {
        LlmFallback::AskLocally => "the local classifier gives the codes until it answers",
        LlmFallback::Reject => "chunks without codes are rejected until it answers",
    };
    for (endpoint, answer) in router.probe().await {
        report(match answer {
            Ok(()) => format!("✅ TMD router ready at {endpoint}"),
            Err(error) => format!("⚠️  the TMD router at {endpoint} {error}; {meanwhile}"),
        });
    }
    let source = CodeSource::Router { router: router.clone(), otherwise };
    Ok(Codes { source, llm: None, router: Some(router), endpoint: None })
}
