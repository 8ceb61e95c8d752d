//! The settings of calls to the language model, from the configuration.

use crate::config::Config;
use crate::llm::LlmSettings;
use std::time::Duration;

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
