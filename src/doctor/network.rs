//! Checks the network: whether the port is free, and what is on this machine.

use super::check::Check;
use crate::config::Config;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::TcpListener;
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
    let client = crate::endpoint::client_builder();
    let client = client.timeout(PATIENCE).build().ok()?;
    let health = client.get(format!("http://{host}:{}/health", config.port)).send().await.ok()?;
    let health: Value = health.json().await.ok()?;
    let (status, model) = (health["status"].as_str()?, health["model"]["name"].as_str()?);
    let device = health["model"]["device"].as_str().unwrap_or("unknown");
    health["pipeline"].is_object().then(|| format!("{status}, model {model} on {device}"))
}
