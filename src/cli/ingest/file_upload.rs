//! One source of lines, sent until each has its answer: rounds, pauses between them, and the end.

use super::attempt::{End, SourceMonitor, Target, UploadBody};
use super::error::IngestError;
use super::ledger::UploadTally;
use super::progress_line::ProgressLine;
use super::retry_policy::{AttemptOutcome, RetryPolicy};
use super::source::{InputSource, LineSource};
use super::state::UploadState;
use super::survey::{Survey, encoding_of};
use crate::wire::ContentEncoding;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a file is given up.
#[derive(Debug, Clone, Copy)]
pub struct RetryLimits {
    /// The time without a settled line.
    pub patience: Duration,
    /// The number of rounds that settle too little.
    pub tries: u32,
}

/// What can be read again, and what cannot.
enum UploadKind {
    /// A file: its lines are found again.
    File(Survey),
    /// A pipe: what was read from it is gone.
    Pipe,
}

/// See the module.
pub struct FileUpload<'a> {
    target: &'a Target,
    path: PathBuf,
    kind: UploadKind,
    state: UploadState,
}

impl<'a> FileUpload<'a> {
    /// Looks at the whole file, and at its journal.
    pub fn of_file(target: &'a Target, path: &Path, journal: bool) -> Result<Self, IngestError> {
        let survey = Survey::of(path).map_err(|error| IngestError::file(path, error))?;
        let journal = journal.then(|| target.journal(path, &survey));
        let mut state = UploadState::new(journal, ProgressLine::new(path, Some(survey.chunks)));
        state.resume();
        Ok(FileUpload { target, path: path.to_owned(), kind: UploadKind::File(survey), state })
    }

    /// A pipe, or `-` for standard input. There is no journal of what cannot be read again.
    pub fn of_pipe(target: &'a Target, path: &Path) -> Self {
        let state = UploadState::new(None, ProgressLine::new(path, None));
        state.progress().say("can be read only once: there is no journal of it, and no line is sent twice");
        FileUpload { target, path: path.to_owned(), kind: UploadKind::Pipe, state }
    }

    /// Sends until all is settled; the tally says how. With an error it says how far it came.
    pub async fn run(mut self, limits: RetryLimits) -> (UploadTally, String, Result<(), IngestError>) {
        let result = self.rounds(limits).await;
        match &result {
            Ok(()) => self.state.close(),
            Err(_) => {
                self.state.keep();
                self.state.progress().finish();
            }
        }
        let tally = self.state.tally();
        let (took, rate) = self.state.progress().pace(tally);
        (tally, format!("{tally} in {:.2} s ({rate:.0} chunks/s)", took.as_secs_f64()), result)
    }

    async fn rounds(&mut self, limits: RetryLimits) -> Result<(), IngestError> {
        let mut retry_policy = RetryPolicy::new(limits.patience, limits.tries, Instant::now());
        while !self.is_settled() {
            let before = self.state.tally().settled();
            self.state.begin_attempt();
            let (end, monitor) = self.attempt(limits.patience).await?;
            let settled = self.state.tally().settled().saturating_sub(before);
            let outcome = AttemptOutcome { end, settled, again: self.state.again().lines };
            if self.is_settled() {
                break;
            }
            let pause = match &self.kind {
                UploadKind::File(survey) if survey.is_outdated(&self.path) => {
                    return Err(IngestError::Changed { file: self.path.display().to_string() });
                }
                UploadKind::Pipe if matches!(outcome.end, End::Complete) && outcome.again == 0 => {
                    return Ok(());
                }
                UploadKind::Pipe if monitor.has_begun() => None,
                _ => retry_policy.pause(&outcome, Instant::now()),
            };
            match pause {
                Some(pause) => self.wait(&outcome, pause).await,
                None => return Err(self.give_up(outcome)),
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        match &self.kind {
            UploadKind::File(survey) => self.left(survey) == 0 && survey.damage.is_none(),
            UploadKind::Pipe => false,
        }
    }

    fn left(&self, survey: &Survey) -> u64 {
        survey.chunks.saturating_sub(self.state.tally().settled())
    }

    async fn attempt(&mut self, patience: Duration) -> Result<(End, Arc<SourceMonitor>), IngestError> {
        match self.target.store().await {
            Ok(store) => self.state.set_store(store),
            Err(error) => return Ok((End::Unreachable(error), Arc::default())),
        }
        let body = self.body().await.map_err(|error| IngestError::file(&self.path, error))?;
        let monitor = body.monitor();
        // A program that writes to a pipe may pause for long.
        let bounded = !patience.is_zero() && matches!(self.kind, UploadKind::File(_));
        Ok((self.target.send(body, bounded.then_some(patience), &mut self.state).await, monitor))
    }

    /// What is not settled. The first time that is the file as it is, compressed or not; so is a damaged one, of
    /// which the service says what is wrong.
    async fn body(&self) -> io::Result<UploadBody> {
        let source = open(&self.path).await?;
        match &self.kind {
            UploadKind::File(survey) if self.state.tally().settled() > 0 && survey.damage.is_none() => {
                let settled = self.state.ledger().lines().clone();
                Ok(UploadBody::new(
                    LineSource::without(source, survey.encoding, settled)?,
                    ContentEncoding::Identity,
                ))
            }
            _ => Ok(UploadBody::new(LineSource::whole(source)?, encoding_of(&self.path))),
        }
    }

    async fn wait(&mut self, outcome: &AttemptOutcome, pause: Duration) {
        self.state.keep();
        let what = match (&outcome.end, &self.state.again().last) {
            (End::Complete, Some((line, failure))) => {
                let lines = outcome.again;
                format!("has {lines} chunks to send again, the last one line {line} ({failure})")
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

    fn give_up(&self, outcome: AttemptOutcome) -> IngestError {
        let advice = match (&self.kind, self.state.has_journal()) {
            (UploadKind::File(_), true) => "run the same command again: it sends only what is left",
            (UploadKind::File(_), false) => {
                "run the same command again: what is stored is known and not stored twice"
            }
            (UploadKind::Pipe, _) => "send it again: what is stored is known and not stored twice",
        };
        match outcome.end {
            End::Complete => {
                let left = match &self.kind {
                    UploadKind::File(survey) => self.left(survey),
                    UploadKind::Pipe => outcome.again,
                };
                let why = self.state.again().last.as_ref();
                let why =
                    why.map_or("no answer".to_owned(), |(line, failure)| format!("line {line}: {failure}"));
                IngestError::NotTaken { left, why, advice }
            }
            End::Cut(message) => IngestError::Cut { message, advice },
            End::PutOff { message, .. } => IngestError::PutOff { message, advice },
            End::Partly(message) => IngestError::Partly { message },
            End::Refused { status, message } => IngestError::Refused { status, message },
            End::Unreachable(error) => {
                IngestError::Unreachable { url: self.target.url.clone(), advice, error }
            }
            End::InputSource(error) => IngestError::file(&self.path, error),
        }
    }
}

async fn open(path: &Path) -> io::Result<InputSource> {
    if path == Path::new("-") {
        return Ok(Box::pin(tokio::io::stdin()));
    }
    Ok(Box::pin(tokio::fs::File::open(path).await?))
}
