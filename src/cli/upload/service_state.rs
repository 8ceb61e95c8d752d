//! What the service says of itself while an upload runs: what limits its rate.

use super::attempt::Target;
use crate::threads::lock;
use serde::Deserialize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two questions, and before the first: short uploads ask nothing.
const PACE: Duration = Duration::from_secs(2);
/// The longest time that an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks the service now and then, until it is dropped.
pub struct ServiceState {
    limited_by: Arc<Mutex<Option<String>>>,
    asking: JoinHandle<()>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatsAnswer {
    limited_by: Option<String>,
}

impl ServiceState {
    /// Begins to ask a service.
    pub fn follow(target: &Target) -> ServiceState {
        let limited_by = Arc::new(Mutex::new(None));
        let (seen, client, url) =
            (limited_by.clone(), target.client.clone(), format!("{}/stats", target.url));
        let asking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PACE).await;
                let answer = async { client.get(&url).timeout(ANSWER).send().await?.json().await };
                let stats: StatsAnswer = answer.await.unwrap_or_default();
                *lock(&seen) = stats.limited_by.filter(|name| !name.is_empty());
            }
        });
        ServiceState { limited_by, asking }
    }

    /// What limits the rate at which chunks are stored, if the service says.
    pub fn limited_by(&self) -> Option<String> {
        lock(&self.limited_by).clone()
    }
}

impl Drop for ServiceState {
    fn drop(&mut self) {
        self.asking.abort();
    }
}
