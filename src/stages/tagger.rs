//! Decides who gives a text its Domain, Task and Modifier codes, and asks for them.
//!
//! The order: codes of the client; then a language model, where there is one, or the local classifier. The first stage
//! uses it for chunks; others may use it for any text.

use crate::chunk::{Chunk, Tagging, TmdSource};
use crate::classifier::LocalClassifier;
use crate::error_code::ErrorCode;
use crate::llm::{Llm, LlmError, Wanted};
use crate::metrics;
use crate::rejection::Rejection;
use crate::router::{RoutedCodes, RouterError, TmdRouter};
use crate::threads::{Lane, Progress, Worker, WorkerError};
use std::sync::Arc;
use std::time::Instant;

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

/// Gives codes. A handle, cheap to clone; it outlives the generations of the stages.
#[derive(Clone)]
pub struct Tagger {
    classifier: Worker<LocalClassifier>,
    source: CodeSource,
}

impl Tagger {
    /// A handle that asks the classifier, on its own thread, or `source`.
    pub fn new(classifier: Worker<LocalClassifier>, source: CodeSource) -> Tagger {
        Tagger { classifier, source }
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

    /// The records of the threads of the classifier.
    pub fn progress(&self) -> &[Progress] {
        self.classifier.progress()
    }

    /// The codes of a chunk: those of the client where it sent them, else as [`Self::tag_text`].
    ///
    /// # Errors
    /// As [`Self::tag_text`].
    pub async fn tag(&self, chunk: &Arc<Chunk>) -> Result<Tagging, Rejection> {
        match &chunk.client_tagging {
            Some(tagging) => Ok(tagging.clone()),
            None => self.tag_text(chunk.clone()).await,
        }
    }

    /// The codes of a text: an `Arc<Chunk>` or an `Arc<str>`.
    ///
    /// # Errors
    /// A [`Rejection`]: `llm_failed` when the language model has no answer and nothing else is to be asked,
    /// `tmd_failed` when the classifier cannot read the text, `draining` when its thread has ended.
    pub async fn tag_text<T>(&self, text: Arc<T>) -> Result<Tagging, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        let started = Instant::now();
        match &self.source {
            CodeSource::Llm { llm, otherwise } if llm.available() => {
                match llm.classify((*text).as_ref(), Wanted::Codes).await {
                    Ok(answer) => {
                        let source = TmdSource::Llm { model: llm.model().clone() };
                        let (confidence, took) = (answer.confidence, Some(answer.took));
                        Ok(Tagging { tmd: answer.tmd, source, confidence, took })
                    }
                    Err(error) => match otherwise {
                        LlmFallback::AskLocally => self.fall_back(text, started, error.kind()).await,
                        LlmFallback::Reject => Err(unanswered(llm, &error)),
                    },
                }
            }
            CodeSource::Router { router, otherwise } => match router.extract((*text).as_ref()).await {
                Ok(RoutedCodes { tmd, took }) => {
                    let source = TmdSource::Llm { model: router.name().clone() };
                    Ok(Tagging { tmd, source, confidence: None, took: Some(took) })
                }
                Err(error) => match otherwise {
                    LlmFallback::AskLocally => self.fall_back(text, started, error.kind()).await,
                    LlmFallback::Reject => Err(unrouted(router, &error)),
                },
            },
            CodeSource::Local | CodeSource::Llm { .. } => {
                self.ask_locally(text, started, |version| TmdSource::Local { version }).await
            }
        }
    }

    /// Asks the local classifier in place of a language model.
    async fn fall_back<T>(
        &self,
        text: Arc<T>,
        started: Instant,
        reason: &'static str,
    ) -> Result<Tagging, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        metrics::fell_back(reason);
        let source = |version| TmdSource::Fallback { version, reason: reason.into() };
        self.ask_locally(text, started, source).await
    }

    async fn ask_locally<T>(
        &self,
        text: Arc<T>,
        started: Instant,
        source: impl FnOnce(Arc<str>) -> TmdSource + Send + 'static,
    ) -> Result<Tagging, Rejection>
    where
        T: AsRef<str> + Send + Sync + ?Sized + 'static,
    {
        let waiting = Instant::now();
        let answer = self.classifier.run(Lane::Bulk, move |classifier| {
            // Waiting for the classifier's thread is not the classifier's time.
            let waited = waiting.elapsed();
            let found = classifier.classify((*text).as_ref());
            let source = source(classifier.version().into());
            let took = started.elapsed().saturating_sub(waited);
            Tagging { tmd: found.tmd, source, confidence: Some(found.confidence), took: Some(took) }
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

fn unrouted(router: &TmdRouter, error: &RouterError) -> Rejection {
    let message = format!("the TMD router at {} {error}; send this chunk again", router.endpoint());
    Rejection::new(ErrorCode::LlmFailed, message)
}

fn unanswered(llm: &Llm, error: &LlmError) -> Rejection {
    let message = format!("the LLM at {} {error}; send this chunk again", llm.endpoint());
    Rejection::new(ErrorCode::LlmFailed, message)
}
