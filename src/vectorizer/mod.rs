//! Texts to vectors, for the embedder stage, searches, and requests for vectors over HTTP.
//!
//! [`Vectorizer`] is the handle. Its backend is the model of this process ([`Local`]: a tokenizer and encoders on their
//! own threads) or another embedding server ([`Remote`]). A pass that fails as a whole is bisected until the text that
//! causes the failure is alone; [`VectorError`] says whether a text can be the cause.
//!
//! Priority: a search uses the express lane and waits at most for the pass in progress. A list of texts
//! ([`Vectorizer::vectors`]) shares the bulk lane with ingest. All lists together may queue as many passes as ingest,
//! so under load each gets half of the model.

mod error;
mod lists;
mod local;
mod remote;
mod remote_answer;
mod remote_error;
mod remote_server;

pub use error::VectorError;
pub use local::{EncoderPool, Local};
pub use remote::{Remote, RemoteSettings};
pub use remote_error::RemoteError;

use crate::encoder::plan::Budget;
use crate::encoder::{Tokens, Vector};
use crate::flow::bisect;
use crate::metrics;
use crate::threads::Lane;
use crate::threads::Progress;
use error::{FailedPass, Suspect};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A handle that computes vectors; cheap to clone.
#[derive(Clone)]
pub struct Vectorizer {
    backend: Backend,
    budget: Budget,
    /// Limits the concurrent passes of lists.
    permits: Arc<Semaphore>,
}

#[derive(Clone)]
enum Backend {
    Local(Local),
    Remote(Remote),
}

/// A text prepared for a pass.
#[derive(Debug, Clone)]
pub struct Text(TextForm);

#[derive(Debug, Clone)]
enum TextForm {
    Tokens(Arc<Tokens>),
    /// For a server, which tokenizes the text itself.
    Plain(Arc<str>),
}

impl Text {
    /// The number of tokens; an estimate if the text is not tokenized here.
    pub fn size(&self) -> usize {
        // English text has about four bytes per token.
        const BYTES_PER_TOKEN: usize = 4;
        match &self.0 {
            TextForm::Tokens(tokens) => tokens.len(),
            TextForm::Plain(text) => text.len() / BYTES_PER_TOKEN + 1,
        }
    }

    /// Whether the model reads only the first part of the text. Always false with a server, which does not report it.
    pub fn truncated(&self) -> bool {
        matches!(&self.0, TextForm::Tokens(tokens) if tokens.truncated)
    }

    /// The share of characters that the model does not know, if it is above one half. Always `None` with a server,
    /// which does not report it.
    pub fn unread(&self) -> Option<f32> {
        match &self.0 {
            TextForm::Tokens(tokens) => tokens.unread,
            TextForm::Plain(_) => None,
        }
    }
}

/// The vector of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// The vector, of unit length.
    pub vector: Arc<[f32]>,
    /// The duration of the pass that computed it.
    pub took: Duration,
}

/// The results of embedding some texts.
pub struct PassResult {
    /// One result per text, in the order of the texts.
    pub vectors: Vec<Result<Embedded, VectorError>>,
    /// The total duration of all passes.
    pub busy: Duration,
}

impl Vectorizer {
    /// Uses the model of this process, with at most `budget` in a pass.
    pub fn local(local: Local, budget: Budget) -> Vectorizer {
        Vectorizer::over(Backend::Local(local), budget)
    }

    /// Uses an embedding server, with at most `budget` in a request.
    pub fn remote(remote: Remote, budget: Budget) -> Vectorizer {
        Vectorizer::over(Backend::Remote(remote), budget)
    }

    fn over(backend: Backend, budget: Budget) -> Vectorizer {
        let vectorizer = Vectorizer { backend, budget, permits: Arc::new(Semaphore::new(0)) };
        vectorizer.permits.add_permits(vectorizer.concurrency());
        vectorizer
    }

    /// The limits of one pass.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The number of passes that run concurrently.
    pub fn concurrency(&self) -> usize {
        match &self.backend {
            Backend::Local(local) => local.encoders.threads(),
            Backend::Remote(remote) => remote.calls(),
        }
    }

    /// The progress of the tokenizer and encoder threads; empty with a server.
    pub fn progress(&self) -> Vec<Progress> {
        self.model()
            .map_or_else(Vec::new, |local| [local.tokenizer.progress(), local.encoders.progress()].concat())
    }

    /// The model of this process, or `None` with a server.
    pub fn model(&self) -> Option<&Local> {
        match &self.backend {
            Backend::Local(local) => Some(local),
            Backend::Remote(_) => None,
        }
    }

    /// The embedding server, or `None` with a local model.
    pub fn server(&self) -> Option<&Remote> {
        match &self.backend {
            Backend::Local(_) => None,
            Backend::Remote(remote) => Some(remote),
        }
    }

    /// Prepares a text for a pass: tokenizes it for a local model.
    ///
    /// # Errors
    /// [`VectorError::Encode`] if it cannot be tokenized; the errors of the tokenizer's thread.
    pub async fn read(
        &self,
        lane: Lane,
        text: impl AsRef<str> + Send + 'static,
    ) -> Result<Text, VectorError> {
        match &self.backend {
            Backend::Local(local) => {
                local.read(lane, text).await.map(|tokens| Text(TextForm::Tokens(tokens)))
            }
            Backend::Remote(_) => Ok(Text(TextForm::Plain(text.as_ref().into()))),
        }
    }

    /// Embeds the texts in one pass. If the pass fails as a whole and a text may be the cause, its halves are embedded
    /// separately, recursively, so a bad text is isolated and the others succeed. A server that turns out to fail for
    /// every text is not asked again. The size of later passes is not reduced.
    pub async fn embed(&self, lane: Lane, texts: &[Text]) -> PassResult {
        let mut passed = PassResult { vectors: Vec::with_capacity(texts.len()), busy: Duration::ZERO };
        let mut failing: Option<VectorError> = None;
        bisect(texts.iter().collect(), async |part: Vec<&Text>| {
            if let Some(error) = &failing {
                passed.vectors.extend(part.iter().map(|_| Err(error.clone())));
                return None;
            }
            let whole = part.len() == texts.len();
            let FailedPass { error, suspect } = match self.pass(lane, &part, whole).await {
                Ok((vectors, took)) => {
                    passed.busy += took;
                    passed.vectors.extend(vectors.into_iter().map(|vector| checked(vector, took)));
                    return None;
                }
                Err(failed) => failed,
            };
            metrics::pass_failed(error.cause());
            let error = match suspect {
                Suspect::Texts if part.len() > 1 => return Some(part),
                Suspect::Texts => error.of_the_text(),
                Suspect::Pass => error,
                Suspect::Server => failing.insert(error).clone(),
            };
            passed.vectors.extend(part.iter().map(|_| Err(error.clone())));
            None
        })
        .await;
        passed
    }

    /// The vector of one text, computed in the express lane; for searches.
    ///
    /// # Errors
    /// [`VectorError`] says why there is none.
    pub async fn vector(&self, text: String) -> Result<Arc<[f32]>, VectorError> {
        let text = self.read(Lane::Express, text).await?;
        let vectors = self.embed(Lane::Express, &[text]).await.vectors;
        let missing = Err(VectorError::Count { expected: 1, received: 0 });
        vectors.into_iter().next().unwrap_or(missing).map(|embedded| embedded.vector)
    }

    /// One pass; the number of vectors is checked. Requests for a part of a failed pass (`whole` is false) are not
    /// retried.
    async fn pass(
        &self,
        lane: Lane,
        texts: &[&Text],
        whole: bool,
    ) -> Result<(Vec<Vector>, Duration), FailedPass> {
        let (vectors, took) = match &self.backend {
            Backend::Local(local) => {
                let tokens = texts.iter().filter_map(|text| match &text.0 {
                    TextForm::Tokens(tokens) => Some(tokens.clone()),
                    TextForm::Plain(_) => None,
                });
                local.pass(lane, tokens.collect()).await?
            }
            Backend::Remote(remote) => {
                let plain = texts.iter().filter_map(|text| match &text.0 {
                    TextForm::Plain(text) => Some(text.as_ref()),
                    TextForm::Tokens(_) => None,
                });
                remote.pass(lane, &plain.collect::<Vec<_>>(), whole).await?
            }
        };
        match vectors.len() == texts.len() {
            true => Ok((vectors, took)),
            false => Err(VectorError::Count { expected: texts.len(), received: vectors.len() }.into()),
        }
    }
}

/// Counts unusable vectors in the metrics.
fn checked(vector: Vector, took: Duration) -> Result<Embedded, VectorError> {
    let vector = vector.inspect_err(|error| {
        if matches!(error, crate::encoder::EncodeError::UnusableVector { .. }) {
            metrics::nonfinite();
        }
    });
    Ok(Embedded { vector: vector.map_err(VectorError::Encode)?, took })
}
