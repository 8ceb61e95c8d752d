//! The settings of calls to the language model, from the configuration.

use crate::config::Config;
use crate::llm::LlmSettings;
use std::time::Duration;

/// The settings for up to `calls` calls at once.
pub fn llm_settings(config: &Config, calls: usize) -> LlmSettings {
    LlmSettings {
        endpoint: config.llm_endpoint.clone(),
        model: config.tmd_llm_model.clone(),
        calls,
        timeout: Duration::from_secs(config.llm_timeout_s),
        dialect: config.llm_dialect,
        answer: config.tmd_answer,
        api_key: config.llm_api_key.clone(),
    }
}
