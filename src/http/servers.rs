//! The servers that the service asks: language models and embedding servers, in `/health` and in metrics.

use crate::llm::{Llm, LlmServerStatus};
use crate::metrics::ServerGauges;
use crate::server_pool::{ServerStatus, Standing};
use serde_json::{Value, json};
use std::time::Duration;

/// The state of the language model: of the whole and of each server.
pub fn of_llm(llm: &Llm) -> Value {
    let servers = llm.servers();
    let statuses: Vec<&ServerStatus> = servers.iter().map(|server| &server.status).collect();
    let last = last_failure(&statuses);
    json!({
        "state": if llm.available() { whole(&statuses) } else { "absent" },
        "model": llm.model(),
        "in_flight": statuses.iter().map(|server| server.in_flight).sum::<usize>(),
        "failures_in_a_row": statuses.iter().map(|server| server.failures_in_a_row).min(),
        "problem": last.map(|(sentence, _)| sentence),
        "problem_age_s": last.map(|(_, age)| age.as_secs()),
        "servers": servers.iter().map(one_llm).collect::<Vec<Value>>(),
    })
}

/// The state of a pool: the best of its servers.
fn whole(servers: &[&ServerStatus]) -> &'static str {
    let any = |standing| servers.iter().any(|server| server.standing == standing);
    match () {
        () if any(Standing::Ready) => Standing::Ready.name(),
        () if any(Standing::Failing) || any(Standing::Trial) => Standing::Failing.name(),
        () => Standing::Resting.name(),
    }
}

fn last_failure<'a>(servers: &[&'a ServerStatus]) -> Option<&'a (String, Duration)> {
    servers.iter().filter_map(|server| server.last_failure.as_ref()).min_by_key(|(_, age)| *age)
}

fn one_llm(server: &LlmServerStatus) -> Value {
    let mut state = one(&server.status);
    if let Some(info) = &server.info {
        state["software"] = json!(info.software.to_string());
        state["dialect"] = json!(info.dialect.name());
        state["thinking"] = json!(info.parameters.thinking.to_string());
    }
    state
}

/// The state of one server.
pub fn one(server: &ServerStatus) -> Value {
    let last = server.last_failure.as_ref();
    json!({
        "endpoint": server.endpoint, "state": server.standing.name(), "in_flight": server.in_flight,
        "slots": server.slots, "limit": server.limit, "failures_in_a_row": server.failures_in_a_row,
        "problem": last.map(|(sentence, _)| sentence), "problem_age_s": last.map(|(_, age)| age.as_secs()),
    })
}

/// The gauges of one server.
pub fn gauges(server: &ServerStatus) -> ServerGauges<'_> {
    ServerGauges {
        server: server.name(),
        in_flight: server.in_flight,
        limit: server.limit,
        breaker: server.standing.gauge(),
    }
}
