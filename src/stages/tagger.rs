//! Decides who gives a text its Domain, Task and Modifier codes, and asks for them.
//!
//! The order: codes of the client; the local classifier, where it is to be asked first and is sure enough; a language
//! model, where there is one; the local classifier again. The first stage uses it for chunks; others may use it for any
//! text.

use super::llm_wait::LlmWait;
use crate::chunk::{Chunk, FoundCodes, Tagging, TmdSource};
use crate::classifier::{Classification, LocalClassifier};
use crate::error_code::ErrorCode;
use crate::llm::{Llm, LlmAnswer, LlmError, Wanted};
use crate::metrics;
use crate::rejection::Rejection;
use crate::router::{RoutedCodes, RouterError, TmdRouter};
use crate::threads::{Lane, Progress, Worker, WorkerError};
use crate::tmd::{Axis, AxisConfidence, Tmd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The source of the codes that a client does not send.
#[derive(Clone)]
pub enum CodeSource {
    /// The local classifier.
    Local,
    /// A language model; the local classifier while it is not available.
    Llm {
        /// The model and its server.
        llm: Llm,
        /// What is done when it has no answer.
        otherwise: LlmFallback,
    },
    /// A TMD router: the one of the old service, or another service of this kind.
    Router {
        /// The routers with their servers.
        router: TmdRouter,
        /// What is done when none has an answer.
        otherwise: LlmFallback,
    },
}

/// What is done with a chunk for which the language model has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlmFallback {
    /// The local classifier answers, and the row says so.
    AskLocally,
    /// It is rejected, to be sent again.
    Reject,
}

/// What the local classifier decides before a language model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum LocalFirst {
    /// Nothing: it is asked only in place of one.
    #[default]
    No,
    /// All codes, where its confidence in the domain is at least this. That in task and modifier hardly differs between
    /// texts of a kind.
    WhenSure(f32),
    /// Task and modifier always; the domain where its confidence in it is at least this.
    Hybrid(f32),
}

impl LocalFirst {
    /// Whether no language model is needed beside codes with this confidence.
    fn suffices(self, confidence: AxisConfidence) -> bool {
        match self {
            LocalFirst::No => false,
            LocalFirst::WhenSure(least) | LocalFirst::Hybrid(least) => confidence.domain >= least,
        }
    }
}

/// Codes of the local classifier.
struct LocalCodes {
    found: Classification,
    version: Arc<str>,
    /// Without the wait for the classifier's thread.
    took: Duration,
}

impl LocalCodes {
    fn codes(self, source: impl FnOnce(Arc<str>) -> TmdSource) -> FoundCodes {
        let Classification { tmd, confidence } = self.found;
        FoundCodes { tmd, source: source(self.version), confidence: Some(confidence), took: Some(self.took) }
    }
}

/// Gives codes. A handle, cheap to clone; it outlives the generations of the stages.
#[derive(Clone)]
pub struct Tagger {
    classifier: Worker<LocalClassifier>,
    source: CodeSource,
    local_first: LocalFirst,
    /// Codes of the local classifier alone with a lower confidence in the domain are not given to a chunk.
    least: f32,
    /// The longest time that a text waits for a language model.
    deadline: Duration,
}

impl Tagger {
    /// A handle that asks the classifier, on its own thread, or `source`, for which a text waits as long as `deadline`.
    pub fn new(classifier: Worker<LocalClassifier>, source: CodeSource, deadline: Duration) -> Tagger {
        Tagger { classifier, source, local_first: LocalFirst::No, least: 0.0, deadline }
    }

    /// The same, which asks the classifier first.
    pub fn asking_locally_first(self, local_first: LocalFirst) -> Tagger {
        Tagger { local_first, ..self }
    }

    /// The same, which gives a chunk codes of the local classifier, or of it in place of a language model, only from this
    /// confidence in the domain on (0 to 1).
    pub fn sure_from(self, least: f32) -> Tagger {
        Tagger { least, ..self }
    }

    /// Whether a language model may be asked, now or later.
    pub fn may_ask_llm(&self) -> bool {
        matches!(self.source, CodeSource::Llm { .. } | CodeSource::Router { .. })
    }

    /// Whether a language model is asked for chunks without codes now. They then take the other inlet of the first
    /// stage.
    pub fn asks_llm(&self) -> bool {
        match &self.source {
            CodeSource::Local => false,
            CodeSource::Llm { llm, .. } => llm.available(),
            // It asks one in its turn, and takes as long.
            CodeSource::Router { .. } => true,
        }
    }

    /// Whether the codes of a language model's answer are those of a chunk without codes.
    pub fn takes_llm_codes(&self) -> bool {
        matches!(&self.source, CodeSource::Llm { llm, .. } if llm.available())
    }

    /// Whether a language model is asked for the codes of this chunk now: not if the client gave them or wants none, nor
    /// if the local classifier is sure enough of them.
    pub async fn needs_llm(&self, chunk: &Arc<Chunk>) -> bool {
        if chunk.given_tagging.is_some() || !self.asks_llm() {
            return false;
        }
        if self.local_first == LocalFirst::No {
            return true;
        }
        // Asked again in the stage: the answer is the same, and takes microseconds.
        let local = self.classify(chunk.clone(), Instant::now()).await;
        !local.is_ok_and(|local| self.local_first.suffices(local.found.confidence))
    }

    /// The records of the threads of the classifier.
    pub fn progress(&self) -> &[Progress] {
        self.classifier.progress()
    }

    /// The wait of a text for language models; it begins now.
    pub fn begin_wait(&self) -> LlmWait {
        LlmWait::begin(self.deadline)
    }

    /// The codes of a chunk: those of the client where it sent them, none where it is to have none, else as
    /// [`Self::tag_text`], without those of which the local classifier is not sure enough.
    ///
    /// # Errors
    /// As [`Self::tag_text`].
    pub async fn tag(&self, chunk: &Arc<Chunk>, wait: LlmWait) -> Result<Tagging, Rejection> {
        match &chunk.given_tagging {
            Some(tagging) => Ok(tagging.clone()),
            None => Ok(self.tag_text(chunk.clone(), wait).await?.sure_from(self.least)),
        }
    }

    /// The codes of a text: an `Arc<Chunk>` or an `Arc<str>`. A language model is asked as long as `wait` lasts.
    ///
    /// # Errors
    /// A [`Rejection`]: `llm_failed` when the language model has no answer and nothing else is to be asked,
    /// `tmd_failed` when the classifier cannot read the text, `draining` when its thread has ended.
    pub async fn tag_text<T>(&self, text: Arc<T>, wait: LlmWait) -> Result<FoundCodes, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        let started = Instant::now();
        if !self.asks_llm() {
            let local = self.classify(text, started).await?;
            return Ok(local.codes(|version| TmdSource::Local { version }));
        }
        let local = match self.local_first {
            LocalFirst::No => None,
            // Without its answer the language model is asked for everything.
            _ => self.classify(text.clone(), started).await.ok(),
        };
        match local {
            Some(local) if self.local_first.suffices(local.found.confidence) => Ok(self.settled(local)),
            local => match self.ask((*text).as_ref(), wait).await {
                Ok(codes) => Ok(self.combined(codes, local)),
                Err(Unanswered { otherwise: LlmFallback::AskLocally, reason, .. }) => {
                    self.fall_back(text, started, reason).await
                }
                Err(Unanswered { rejection, .. }) => Err(rejection),
            },
        }
    }

    /// Asks the language model, or the router that asks one.
    async fn ask(&self, text: &str, wait: LlmWait) -> Result<FoundCodes, Unanswered> {
        match &self.source {
            CodeSource::Llm { llm, otherwise } => {
                let asked =
                    wait.bound(llm.classify(text, Wanted::Codes), |limit| LlmError::Deadline { limit });
                asked.await.map(|answer| by_llm(llm, &answer)).map_err(|error| {
                    let what = format!("the LLM at {} {error}", llm.endpoint());
                    Unanswered::new(*otherwise, error.kind(), &what)
                })
            }
            CodeSource::Router { router, otherwise } => {
                let asked = wait.bound(router.extract(text), |limit| RouterError::Deadline { limit });
                let codes = |RoutedCodes { tmd, took }| {
                    let source = TmdSource::Llm { model: router.name().clone() };
                    FoundCodes { tmd, source, confidence: None, took: Some(took) }
                };
                asked.await.map(codes).map_err(|error| {
                    let what = format!("the TMD router at {} {error}", router.endpoint());
                    Unanswered::new(*otherwise, error.kind(), &what)
                })
            }
            CodeSource::Local => {
                Err(Unanswered::new(LlmFallback::AskLocally, "no_model", "there is no language model"))
            }
        }
    }

    /// The codes of a chunk about which the language model was asked for another reason: its own, in the mode `hybrid` as
    /// if it had been asked for the domain.
    pub async fn tag_by(&self, llm: &Llm, answer: &LlmAnswer, chunk: &Arc<Chunk>) -> FoundCodes {
        let codes = by_llm(llm, answer);
        let LocalFirst::Hybrid(_) = self.local_first else { return codes };
        match self.classify(chunk.clone(), Instant::now()).await {
            Ok(local) if self.local_first.suffices(local.found.confidence) => self.settled(local),
            local => self.combined(codes, local.ok()),
        }
    }

    /// The codes of the local classifier, which was sure.
    fn settled(&self, local: LocalCodes) -> FoundCodes {
        local.codes(match self.local_first {
            LocalFirst::Hybrid(_) => |version| TmdSource::HybridLocal { version },
            LocalFirst::No | LocalFirst::WhenSure(_) => |version| TmdSource::FastFirst { version },
        })
    }

    /// The codes of a language model; in the mode `hybrid` its domain, with task and modifier of the local classifier.
    fn combined(&self, asked: FoundCodes, local: Option<LocalCodes>) -> FoundCodes {
        match (self.local_first, local) {
            (LocalFirst::Hybrid(_), Some(local)) => shared(&asked, &local),
            _ => asked,
        }
    }

    /// Asks the local classifier in place of a language model.
    async fn fall_back<T>(
        &self,
        text: Arc<T>,
        started: Instant,
        reason: &'static str,
    ) -> Result<FoundCodes, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        metrics::fell_back(reason);
        let local = self.classify(text, started).await?;
        Ok(local.codes(|version| TmdSource::Fallback { version, reason: reason.into() }))
    }

    async fn classify<T>(&self, text: Arc<T>, started: Instant) -> Result<LocalCodes, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        let waiting = Instant::now();
        let answer = self.classifier.run(Lane::Bulk, move |classifier| {
            // Waiting for the classifier's thread is not the classifier's time.
            let waited = waiting.elapsed();
            let found = classifier.classify((*text).as_ref());
            let version = classifier.version().into();
            LocalCodes { found, version, took: started.elapsed().saturating_sub(waited) }
        });
        answer.await.map_err(|error| match error {
            WorkerError::Panicked(_) | WorkerError::Unavailable(_) => {
                Rejection::new(ErrorCode::TmdFailed, "the local classifier could not read this text")
            }
            WorkerError::Gone => {
                Rejection::new(ErrorCode::Draining, "the service is going down; send it again")
            }
        })
    }
}

/// The domain of a language model, with task and modifier of the local classifier.
fn shared(asked: &FoundCodes, local: &LocalCodes) -> FoundCodes {
    let tmd = local.found.tmd;
    let codes = [asked.tmd.code(Axis::Domain), tmd.code(Axis::Task), tmd.code(Axis::Modifier)];
    let confidence =
        asked.confidence.map(|llm| AxisConfidence { domain: llm.domain, ..local.found.confidence });
    let models = format!("{} + {}", asked.source.model().unwrap_or_default(), local.version).into();
    FoundCodes {
        // Never out of range: each code comes from a triple.
        tmd: Tmd::new(codes[0], codes[1], codes[2]).unwrap_or(asked.tmd),
        source: TmdSource::HybridLlm { models },
        confidence,
        took: asked.took.map(|took| took + local.took),
    }
}

fn by_llm(llm: &Llm, answer: &LlmAnswer) -> FoundCodes {
    let source = TmdSource::Llm { model: llm.model().clone() };
    FoundCodes { tmd: answer.tmd, source, confidence: answer.confidence, took: Some(answer.took) }
}

/// That a source other than the classifier has no answer.
struct Unanswered {
    otherwise: LlmFallback,
    /// For rows and metrics: one of a closed set of names.
    reason: &'static str,
    rejection: Rejection,
}

impl Unanswered {
    fn new(otherwise: LlmFallback, reason: &'static str, what: &str) -> Unanswered {
        let rejection = Rejection::new(ErrorCode::LlmFailed, format!("{what}; send this chunk again"));
        Unanswered { otherwise, reason, rejection }
    }
}
