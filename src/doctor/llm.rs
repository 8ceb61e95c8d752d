//! Checks each language model server: whether it answers and has the model, and, where things may be measured, whether it
//! answers a real question in the lists, and on how many at once it works.

use super::advice::Suggestion;
use super::check::Check;
use super::parallelism::{ServerParallelism, measure};
use crate::app::llm_settings;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::llm::{Llm, LlmError, LlmSettings, ServerSoftware};

const NAME: &str = "LLM";

/// The findings about all servers, and what to set on them.
#[derive(Debug, Default)]
pub struct LlmFindings {
    /// One check or more for each server.
    pub checks: Vec<Check>,
    /// Settings of servers that work on too few requests at once.
    pub suggestions: Vec<Suggestion>,
}

/// Asks each server for version and models. With `measure` each is also asked about some small texts, for which it loads
/// the model.
pub async fn llm_findings(config: &Config, measured: bool) -> LlmFindings {
    if config.tmd_backend == TmdBackend::Local {
        let checks = vec![Check::ok(NAME, "none wanted: the local classifier gives the codes")];
        return LlmFindings { checks, ..LlmFindings::default() };
    }
    let servers = llm_settings(config);
    let mut inspected = Vec::new();
    for server in servers {
        inspected.push((inspect(&server).await, server));
    }
    let others = inspected.iter().any(|(answer, _)| answer.is_ok());
    let mut findings = LlmFindings::default();
    for (answer, server) in inspected {
        let endpoint = server.endpoint.to_string();
        match answer {
            Ok(software) => {
                let found = format!("{software} at {endpoint} has {}", server.model);
                findings.checks.push(Check::ok(NAME, found));
                if measured {
                    question(config, server, &software, &mut findings).await;
                }
            }
            Err(error) => findings.checks.push(unusable(config, &endpoint, &error, others)),
        }
    }
    findings
}

async fn inspect(server: &LlmSettings) -> Result<ServerSoftware, LlmError> {
    let answers = Llm::new(std::slice::from_ref(server))?.inspect().await;
    let lost = LlmError::Client { problem: "its answer was lost".to_owned() };
    answers.into_iter().next().map_or(Err(lost), |(_, answer)| answer)
}

/// A real question, and several at once.
async fn question(
    config: &Config,
    server: LlmSettings,
    software: &ServerSoftware,
    findings: &mut LlmFindings,
) {
    let (endpoint, slots) = (server.endpoint.to_string(), server.calls);
    // A server that works on one request at a time must not be found by a time-out.
    let factor = u32::try_from(slots).unwrap_or(u32::MAX).saturating_add(1);
    let patient = LlmSettings { timeout: server.timeout.saturating_mul(factor), ..server };
    let measured = async {
        let llm = Llm::new(&[patient])?;
        let found = measure(&llm, slots).await?;
        Ok((found, llm.servers().into_iter().find_map(|server| server.info)))
    };
    match measured.await {
        Ok((found, info)) => {
            let how = info.map(|info| format!(" (dialect {})", info.dialect)).unwrap_or_default();
            let alone = found.alone.as_millis();
            let answers = format!("the LLM at {endpoint} answers in the lists{how}, in {alone} ms");
            findings.checks.push(Check::ok(NAME, answers));
            findings.checks.push(parallel(&endpoint, software, &found));
            findings.suggestions.extend(suggestion(&endpoint, software, &found));
        }
        Err(error) => findings.checks.push(unusable(config, &endpoint, &error, false)),
    }
}

/// Whether a server works on as many requests at once as it has slots.
fn parallel(endpoint: &str, software: &ServerSoftware, found: &ServerParallelism) -> Check {
    let ServerParallelism { sent, at_once, .. } = *found;
    if sent < 2 {
        return Check::ok(
            NAME,
            format!("the LLM at {endpoint} has one slot: it is asked one thing at a time"),
        );
    }
    let took = format!("{sent} calls at once took {:.1} times as long as one alone", found.factor());
    if found.is_enough() {
        return Check::ok(NAME, format!("the LLM at {endpoint} works on {at_once} calls at once: {took}"));
    }
    let works = match at_once {
        0 | 1 => "answers one at a time".to_owned(),
        some => format!("works on about {some} calls at once"),
    };
    let start = match software {
        ServerSoftware::Ollama { .. } => {
            format!("start it with OLLAMA_NUM_PARALLEL={sent} (scripts/start_ollama_parallel.sh)")
        }
        ServerSoftware::OpenAi => format!(
            "start it for {sent} calls at once (llama-server --parallel {sent}; the server of llama-cpp-python takes \
             one at a time)"
        ),
    };
    let advice = format!("{start}, or name its slots: LNSP_LLM_ENDPOINT={endpoint}*{}", at_once.max(1));
    Check::warning(NAME, format!("the LLM at {endpoint} {works}: {took}"), advice)
}

fn suggestion(endpoint: &str, software: &ServerSoftware, found: &ServerParallelism) -> Option<Suggestion> {
    let ServerParallelism { sent, at_once, .. } = *found;
    let at_once = at_once.max(1);
    let because = format!("the server at {endpoint} works on {at_once} of {sent} calls at once");
    (sent > 1 && !found.is_enough()).then(|| match software {
        ServerSoftware::Ollama { .. } => {
            Suggestion { setting: "OLLAMA_NUM_PARALLEL", value: sent.to_string(), because }
        }
        ServerSoftware::OpenAi => {
            Suggestion { setting: "LNSP_LLM_ENDPOINT", value: format!("{endpoint}*{at_once}"), because }
        }
    })
}

fn unusable(config: &Config, endpoint: &str, error: &LlmError, others: bool) -> Check {
    let problem = format!("the LLM at {endpoint} {error}");
    if others {
        return Check::warning(
            NAME,
            problem,
            "mend it, or take it out of LNSP_LLM_ENDPOINT; the others are asked",
        );
    }
    match (config.tmd_backend, config.tmd_on_failure, error) {
        (TmdBackend::Auto, _, LlmError::Connect { .. }) => {
            Check::ok(NAME, format!("{problem}; until then the local classifier gives the codes"))
        }
        (TmdBackend::Auto, ..) | (_, OnFailure::Local, _) => {
            Check::warning(NAME, problem, "mend it; until then the local classifier gives the codes")
        }
        (_, OnFailure::Reject, _) => {
            let advice = "mend it, or chunks without codes are rejected; LNSP_TMD_ON_FAILURE=local takes the \
                          local classifier instead";
            Check::failure(NAME, problem, advice)
        }
    }
}
