//! Decides who gives the codes that a client does not send.

use super::start_error::StartError;
use crate::answer_cache::AnswerCache;
use crate::config::{Config, OnFailure, TmdBackend, TmdMode};
use crate::llm::{Llm, LlmSettings};
use crate::router::{RouterSettings, TmdRouter};
use crate::stages::{CodeSource, LlmFallback, LocalFirst};
use std::path::Path;
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

/// The settings of each server of the language model.
pub fn llm_settings(config: &Config) -> Vec<LlmSettings> {
    let servers = config.llm_endpoint.with_slots(config.max_parallel_workers);
    let settings = servers.map(|(endpoint, slots)| LlmSettings {
        endpoint: endpoint.clone(),
        model: config.tmd_llm_model.clone(),
        calls: if config.enable_parallel { slots } else { 1 },
        timeout: Duration::from_secs(config.llm_timeout_s),
        cpesh_timeout: Duration::from_secs(config.cpesh_timeout_s),
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

/// A warning where chunks give up calls before their time is over: such a call says nothing about its server.
fn blind_deadline(config: &Config) -> Option<String> {
    let (deadline, codes, cpesh) = (config.chunk_deadline_s, config.llm_timeout_s, config.cpesh_timeout_s);
    let cpesh = Some(("LNSP_CPESH_TIMEOUT_S", cpesh)).filter(|_| config.enable_cpesh);
    let limits = std::iter::once(("LNSP_LLM_TIMEOUT_S", codes)).chain(cpesh);
    let (name, limit) = limits.max_by_key(|(_, limit)| *limit)?;
    (deadline < limit).then(|| {
        format!(
            "⚠️  LNSP_CHUNK_DEADLINE_S is {deadline}: expected at least {name}, which is {limit}; until then a server \
             that hangs is asked again for every chunk"
        )
    })
}

/// Decides by the configuration and, where it wants a language model, by asking its servers now.
pub async fn code_source(
    config: &Config,
    data_dir: &Path,
    report: &mut dyn FnMut(String),
) -> Result<Codes, StartError> {
    let local = config.tmd_backend == TmdBackend::Local;
    if local && !config.enable_cpesh {
        return Ok(Codes { source: CodeSource::Local, llm: None, router: None, endpoint: None });
    }
    let otherwise = match config.tmd_on_failure {
        OnFailure::Local => LlmFallback::AskLocally,
        OnFailure::Reject => LlmFallback::Reject,
    };
    if let Some(warning) = blind_deadline(config) {
        report(warning);
    }
    match local_first(config) {
        _ if local => {}
        LocalFirst::No => {}
        LocalFirst::WhenSure(least) => report(format!(
            "✅ The local classifier is asked first: from a confidence of {least} in the domain on, no other source is"
        )),
        LocalFirst::Hybrid(least) => report(format!(
            "✅ Hybrid: the local classifier gives task and modifier, and the domain from a confidence of {least} on"
        )),
    }
    let router = match config.tmd_backend {
        TmdBackend::Router => Some(tmd_router(config, otherwise, report).await?),
        _ => None,
    };
    if let Some(router) = router.clone().filter(|_| !config.enable_cpesh) {
        let source = CodeSource::Router { router: router.clone(), otherwise };
        return Ok(Codes { source, llm: None, router: Some(router), endpoint: None });
    }
    let known = answer_cache(config, data_dir, report);
    let llm = Llm::with_cache(&llm_settings(config), known).map_err(StartError::Llm)?;
    let answers = llm.probe().await;
    let usable = answers.iter().any(|(_, answer)| answer.is_ok());
    let meanwhile = match (usable, config.tmd_backend, otherwise) {
        (false, TmdBackend::Local | TmdBackend::Router, _) => "chunks get no CPESH parts until it answers",
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
    if !usable && config.tmd_backend != TmdBackend::Llm {
        llm.set_absent();
    }
    let source = match &router {
        Some(router) => CodeSource::Router { router: router.clone(), otherwise },
        None if local => CodeSource::Local,
        None => CodeSource::Llm { llm: llm.clone(), otherwise },
    };
    Ok(Codes { source, llm: Some(llm), router, endpoint: Some(config.llm_endpoint.to_string()) })
}

/// TMD routers as the source, asked now whether they are there.
async fn tmd_router(
    config: &Config,
    otherwise: LlmFallback,
    report: &mut dyn FnMut(String),
) -> Result<TmdRouter, StartError> {
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
    Ok(router)
}

/// The answers that were given before, unless none are to be kept. The service runs without them, too.
fn answer_cache(config: &Config, data_dir: &Path, report: &mut dyn FnMut(String)) -> Option<AnswerCache> {
    let limit = config.llm_cache_mb * 1024 * 1024;
    if limit == 0 {
        return None;
    }
    let opened = AnswerCache::open(data_dir, limit);
    opened.inspect_err(|error| report(format!("⚠️  no answers of the LLM are kept: {error}"))).ok()
}
