//! Checks each language model server: whether it answers and has the model, and, where things may be measured, whether it
//! answers a real question in the lists, and on how many at once it works.

use super::advice::Suggestion;
use super::check::Check;
use super::parallelism::{Parallelism, measure};
use crate::app::llm_settings;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::llm::{Llm, LlmError, LlmSettings, ServerInfo};

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
            Ok(info) => {
                findings.checks.push(Check::ok(NAME, present(&endpoint, &info, &server.model)));
                if measured {
                    question(config, server, &mut findings).await;
                }
            }
            Err(error) => findings.checks.push(unusable(config, &endpoint, &error, others)),
        }
    }
    findings
}

async fn inspect(server: &LlmSettings) -> Result<ServerInfo, LlmError> {
    let answers = Llm::new(std::slice::from_ref(server))?.inspect().await;
    let lost = LlmError::Client { problem: "its answer was lost".to_owned() };
    answers.into_iter().next().map_or(Err(lost), |(_, answer)| answer)
}

fn present(endpoint: &str, info: &ServerInfo, model: &str) -> String {
    format!("Ollama {} at {endpoint} has {model}", info.version)
}

/// A real question, and several at once.
async fn question(config: &Config, server: LlmSettings, findings: &mut LlmFindings) {
    let (endpoint, slots) = (server.endpoint.to_string(), server.calls);
    // A server that works on one request at a time must not be found by a time-out.
    let factor = u32::try_from(slots).unwrap_or(u32::MAX).saturating_add(1);
    let patient = LlmSettings { timeout: server.timeout.saturating_mul(factor), ..server };
    let measured = match Llm::new(&[patient]) {
        Ok(llm) => measure(&llm, slots).await,
        Err(error) => Err(error),
    };
    match measured {
        Ok(found) => {
            let answers = "answers in the lists";
            let alone = found.alone.as_millis();
            findings.checks.push(Check::ok(NAME, format!("the LLM at {endpoint} {answers}, in {alone} ms")));
            findings.checks.push(parallel(&endpoint, &found));
            findings.suggestions.extend(suggestion(&endpoint, &found));
        }
        Err(error) => findings.checks.push(unusable(config, &endpoint, &error, false)),
    }
}

/// Whether a server works on as many requests at once as it has slots.
fn parallel(endpoint: &str, found: &Parallelism) -> Check {
    let Parallelism { sent, at_once, .. } = *found;
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
    let advice = format!(
        "start it with OLLAMA_NUM_PARALLEL={sent} (scripts/start_ollama_parallel.sh), llama-server with --parallel {sent}; \
         or name its slots: LNSP_LLM_ENDPOINT={endpoint}*{}",
        at_once.max(1)
    );
    Check::warning(NAME, format!("the LLM at {endpoint} {works}: {took}"), advice)
}

fn suggestion(endpoint: &str, found: &Parallelism) -> Option<Suggestion> {
    (found.sent > 1 && !found.is_enough()).then(|| Suggestion {
        setting: "OLLAMA_NUM_PARALLEL",
        value: found.sent.to_string(),
        because: format!(
            "of the server at {endpoint}, which works on {} of {} calls at once",
            found.at_once.max(1),
            found.sent
        ),
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
