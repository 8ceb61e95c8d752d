//! Checks the network: whether the language model answers, and whether the port is free.

use super::check::Check;
use crate::app::llm_settings;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::endpoint;
use crate::llm::{Llm, LlmError, ServerSoftware};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// For what a living service answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether an address is on this machine.
pub fn is_here(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint).ok();
    url.is_some_and(|url| {
        url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]")
    })
}

/// Asks each server for version and models; nothing is loaded.
pub async fn llm_checks(config: &Config) -> Vec<Check> {
    let name = "LLM";
    if config.tmd_backend == TmdBackend::Local {
        return vec![Check::ok(name, "none wanted: the local classifier gives the codes")];
    }
    let answers = match Llm::new(&llm_settings(config)) {
        Ok(llm) => llm.inspect().await,
        Err(error) => vec![(config.llm_endpoint.to_string().into(), Err(error))],
    };
    let others = answers.iter().any(|(_, answer)| answer.is_ok());
    let model = &config.tmd_llm_model;
    let check = |(endpoint, answer): (Arc<str>, Result<ServerSoftware, LlmError>)| match answer {
        Ok(server) => Check::ok(name, format!("{server} at {endpoint} has {model}")),
        Err(error) => unusable(config, &endpoint, &error, others),
    };
    answers.into_iter().map(check).collect()
}

fn unusable(config: &Config, endpoint: &str, error: &LlmError, others: bool) -> Check {
    let name = "LLM";
    let problem = format!("the LLM at {endpoint} {error}");
    if others {
        return Check::warning(
            name,
            problem,
            "mend it, or take it out of LNSP_LLM_ENDPOINT; the others are asked",
        );
    }
    match (config.tmd_backend, config.tmd_on_failure, error) {
        (TmdBackend::Auto, _, LlmError::Connect { .. }) => {
            Check::ok(name, format!("{problem}; until then the local classifier gives the codes"))
        }
        (TmdBackend::Auto, ..) | (_, OnFailure::Local, _) => {
            Check::warning(name, problem, "mend it; until then the local classifier gives the codes")
        }
        (_, OnFailure::Reject, _) => {
            let advice = "mend it, or chunks without codes are rejected; LNSP_TMD_ON_FAILURE=local takes the \
                          local classifier instead";
            Check::failure(name, problem, advice)
        }
    }
}

/// Whether the port is free; if not, who has it.
pub async fn port_check(config: &Config) -> Check {
    let (name, address) = ("port", format!("{}:{}", config.host, config.port));
    let error = match TcpListener::bind((config.host.as_str(), config.port)) {
        Ok(_) if config.port == 0 => return Check::ok(name, "a free one is taken"),
        Ok(_) => return Check::ok(name, format!("{address} is free")),
        Err(error) => error,
    };
    if error.kind() != ErrorKind::AddrInUse {
        let advice = "choose another address with LNSP_HOST and LNSP_PORT";
        return Check::failure(name, format!("{address}: {error}"), advice);
    }
    match ask(config).await {
        Some(state) => Check::ok(name, format!("{address} is taken by a running lnsp: {state}")),
        None => Check::failure(
            name,
            format!("{address} is taken by another program"),
            "stop it, or choose another port with LNSP_PORT",
        ),
    }
}

/// What a service of ours says of itself; `None` when it is none.
async fn ask(config: &Config) -> Option<String> {
    let host = match config.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "[::1]",
        host => host,
    };
    let client = endpoint::plain_client().timeout(PATIENCE).build().ok()?;
    let health = client.get(format!("http://{host}:{}/health", config.port)).send().await.ok()?;
    let health: Value = health.json().await.ok()?;
    let (status, model) = (health["status"].as_str()?, health["model"]["name"].as_str()?);
    let device = health["model"]["device"].as_str().unwrap_or("unknown");
    health["pipeline"].is_object().then(|| format!("{status}, model {model} on {device}"))
}
