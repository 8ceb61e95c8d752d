//! One source, sent until each of its chunks has its answer: rounds, pauses between them, and the end.

use super::attempt::{End, Target};
use super::error::UploadError;
use super::ledger::UploadTally;
use super::refusals::{RefusalSink, RefusalTable};
use super::retry_policy::{AttemptOutcome, RetryLimits, RetryPolicy};
use super::sent_lines::SentLines;
use super::service_state::ServiceState;
use super::source::UploadSource;
use super::state::UploadState;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How an upload is done.
#[derive(Debug, Clone, Copy)]
pub struct UploadOptions {
    /// When it is given up.
    pub limits: RetryLimits,
    /// Chunks without a text are skipped: they count as no failure.
    pub skips_empty: bool,
}

/// See the module.
pub struct Upload<'a> {
    target: &'a Target,
    source: Arc<dyn UploadSource>,
    options: UploadOptions,
    state: UploadState<'a>,
}

/// What became of the chunks of one source.
#[derive(Debug)]
pub struct UploadReport {
    /// How they were answered.
    pub tally: UploadTally,
    /// Why chunks were refused.
    pub refusals: RefusalTable,
    /// How long it took.
    pub took: Duration,
    /// Chunks a second.
    pub rate: f64,
    /// Why some chunks have no answer, if some have none.
    pub result: Result<(), UploadError>,
}

impl fmt::Display for UploadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:.2} s ({:.0} chunks/s)", self.tally, self.took.as_secs_f64(), self.rate)
    }
}

impl<'a> Upload<'a> {
    /// Prepares the upload of a source; nothing is sent yet. Each refused line goes to `sink`, if there is one. Call it
    /// within a runtime.
    pub fn new(
        target: &'a Target,
        source: Arc<dyn UploadSource>,
        options: UploadOptions,
        sink: Option<&'a mut dyn RefusalSink>,
    ) -> Self {
        let service = ServiceState::follow(target);
        let state = UploadState::new(source.clone(), service, options.skips_empty, sink);
        Upload { target, source, options, state }
    }

    /// Sends until all is settled. With an error the report says how far it came.
    pub async fn run(mut self) -> UploadReport {
        let result = self.rounds().await;
        let (progress, ledger, refusals) = self.state.finish();
        let tally = ledger.tally();
        let (took, rate) = progress.pace(tally);
        UploadReport { tally, refusals, took, rate, result }
    }

    async fn rounds(&mut self) -> Result<(), UploadError> {
        let mut retry_policy = RetryPolicy::new(self.options.limits, Instant::now());
        loop {
            let before = self.state.tally().settled();
            let (end, begun) = self.attempt().await;
            let settled = self.state.tally().settled().saturating_sub(before);
            let outcome = AttemptOutcome { end, settled, again: self.state.again().lines };
            let no_more = matches!(outcome.end, End::Complete | End::Cut(_)) && self.state.left() == Some(0);
            if no_more {
                return Ok(());
            }
            if self.source.is_outdated() {
                return Err(UploadError::Changed(self.source.name().to_owned()));
            }
            let is_gone = begun && !self.source.can_reopen();
            match retry_policy.pause(&outcome, Instant::now()).filter(|_| !is_gone) {
                Some(pause) => self.wait(&outcome, pause).await,
                None => return Err(self.give_up(outcome)),
            }
        }
    }

    /// Sends what is not settled, once. Whether the source was begun.
    async fn attempt(&mut self) -> (End, bool) {
        let patience = self.options.limits.patience;
        let outgoing = self.state.begin_attempt();
        // A program that writes to a pipe may pause for long.
        let bounded = !patience.is_zero() && self.source.can_reopen();
        let lines = SentLines::without(self.state.ledger().lines().clone());
        let (source, silence) = (self.source.clone(), bounded.then_some(patience));
        let end = self.target.send(source, lines, &outgoing, silence, &mut self.state).await;
        (end, outgoing.read().begun)
    }

    async fn wait(&mut self, outcome: &AttemptOutcome, pause: Duration) {
        let unit = self.source.unit();
        let what = match (&outcome.end, &self.state.again().last) {
            (End::Complete, Some((line, failure))) => {
                let lines = outcome.again;
                format!("has {lines} chunks to send again, the last one {unit} {line} ({failure})")
            }
            (End::Complete, None) => "has chunks without an answer, to send again".to_owned(),
            (End::PutOff { message, .. }, _) => format!("waits: {message}"),
            (End::Unreachable(_), _) => format!("waits: no answer from {}", self.target.url),
            (End::Cut(message) | End::Partly(message) | End::Refused { message, .. }, _) => {
                format!("was cut off: {message}")
            }
            (End::InputSource(error), _) => format!("was cut off: {error}"),
        };
        self.state.progress().say(&format!("{what}; next try in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }

    fn give_up(&self, outcome: AttemptOutcome) -> UploadError {
        let name = self.source.name();
        let advice = if self.source.can_reopen() {
            "run the same command again: what is stored is known and not stored twice"
        } else {
            "send it again: what is stored is known and not stored twice"
        };
        match outcome.end {
            End::Complete => {
                let left = self.state.left().unwrap_or(outcome.again);
                let why = self.state.again().last.as_ref();
                let unit = self.source.unit();
                let why =
                    why.map_or("no answer".to_owned(), |(line, failure)| format!("{unit} {line}: {failure}"));
                UploadError::NotTaken { left, why, advice }
            }
            End::Cut(message) => UploadError::Cut { message, advice },
            End::PutOff { message, .. } => UploadError::PutOff { message, advice },
            End::Partly(message) => UploadError::Partly { name: name.to_owned(), message },
            End::Refused { status, message } => UploadError::Refused { status, message },
            End::Unreachable(error) => {
                UploadError::Unreachable { url: self.target.url.clone(), advice, error }
            }
            End::InputSource(error) => UploadError::source(name, error),
        }
    }
}
