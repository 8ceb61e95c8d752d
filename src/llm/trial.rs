//! Calls for measurements: of one server, without pool, cache and repetition, with what each call cost.

use super::answer::Labels;
use super::client::{LlmClient, ServerInfo};
use super::dialect::Attempt;
use super::error::LlmError;
use super::question::{Question, Wanted};
use super::settings::LlmSettings;
use super::transport::within;
use std::time::{Duration, Instant};

/// One server, asked in one form.
pub struct LlmTrial {
    client: LlmClient,
    server: ServerInfo,
    timeout: Duration,
}

/// What a call gave and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialAnswer {
    /// The labels.
    pub labels: Labels,
    /// The number of generated tokens, as the server says.
    pub tokens: u64,
    /// The duration of the call.
    pub took: Duration,
}

impl LlmTrial {
    /// Makes the handshake with the server of these settings.
    ///
    /// # Errors
    /// [`LlmError`] of the handshake.
    pub async fn connect(settings: &LlmSettings) -> Result<LlmTrial, LlmError> {
        let client = LlmClient::new(settings)?;
        let server = client.handshake().await?;
        Ok(LlmTrial { client, server, timeout: settings.timeout })
    }

    /// What the handshake found.
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`LlmError`] of the call or of its answer.
    pub async fn ask(&self, text: &str, wanted: Wanted) -> Result<TrialAnswer, LlmError> {
        let question = Question { text, wanted };
        let started = Instant::now();
        let call = self.client.generate(question, Attempt::First, &self.server);
        let (labels, generated) = within(self.timeout, call).await?;
        Ok(TrialAnswer { labels: labels?, tokens: generated.answer_tokens, took: started.elapsed() })
    }
}
