//! Texts to vectors, for whoever needs them: the embedder stage, searches, and those who ask for vectors over HTTP.
//!
//! [`Vectorizer`] is the handle. Behind it is the model of this process ([`Local`]: a tokenizer and encoders on threads
//! of their own) or another embedding server ([`Remote`]). A pass that fails as a whole goes in halves, until the text
//! that is to blame stands alone; [`VectorError`] says whether one is.
//!
//! Who goes first: a search is in the express lane and waits for the pass under way at most. A list of texts
//! ([`Vectorizer::vectors`]) stands in line with ingest, and all lists together have as many passes in the line as
//! ingest has: each gets half of the model while both want it, and a search overtakes both.

mod error;
mod lists;
mod local;
mod remote;

pub use error::VectorError;
pub use local::{Local, Model};
pub use remote::{Remote, RemoteError, RemoteSettings};

use crate::encoder::plan::Budget;
use crate::encoder::{Tokens, Vector};
use crate::metrics;
use crate::threads::Lane;
use crate::threads::Progress;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Gives vectors; cheap to clone.
#[derive(Clone)]
pub struct Vectorizer {
    back: Back,
    budget: Budget,
    /// Passes of lists.
    turns: Arc<Semaphore>,
}

#[derive(Clone)]
enum Back {
    Local(Local),
    Remote(Remote),
}

/// A text, ready for a pass.
#[derive(Debug, Clone)]
pub struct Text(Form);

#[derive(Debug, Clone)]
enum Form {
    Tokens(Arc<Tokens>),
    /// For a server that has a tokenizer of its own.
    Plain(Arc<str>),
}

impl Text {
    /// What it costs: its tokens, where they are not known an estimate.
    pub fn size(&self) -> usize {
        // English has about four bytes a token.
        const BYTES_PER_TOKEN: usize = 4;
        match &self.0 {
            Form::Tokens(tokens) => tokens.len(),
            Form::Plain(text) => text.len() / BYTES_PER_TOKEN + 1,
        }
    }

    /// The model reads only its beginning. An embedding server does not say so.
    pub fn truncated(&self) -> bool {
        matches!(&self.0, Form::Tokens(tokens) if tokens.truncated)
    }
}

/// A text's vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Of unit length.
    pub vector: Arc<[f32]>,
    /// The pass it was in.
    pub took: Duration,
}

/// What became of some texts, in their order.
pub struct Passed {
    /// Each text's own.
    pub vectors: Vec<Result<Embedded, VectorError>>,
    /// All passes together.
    pub busy: Duration,
}

impl Vectorizer {
    /// Over the model of this process, with so much in a pass.
    pub fn local(local: Local, budget: Budget) -> Vectorizer {
        Vectorizer::over(Back::Local(local), budget)
    }

    /// Over a server, with so much in a request.
    pub fn remote(remote: Remote, budget: Budget) -> Vectorizer {
        Vectorizer::over(Back::Remote(remote), budget)
    }

    fn over(back: Back, budget: Budget) -> Vectorizer {
        let vectorizer = Vectorizer { back, budget, turns: Arc::new(Semaphore::new(0)) };
        vectorizer.turns.add_permits(vectorizer.at_once());
        vectorizer
    }

    /// What a pass may hold.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Passes that are worth starting side by side.
    pub fn at_once(&self) -> usize {
        match &self.back {
            Back::Local(local) => local.model.threads(),
            Back::Remote(remote) => remote.calls(),
        }
    }

    /// Of its threads.
    pub fn progress(&self) -> Vec<Progress> {
        self.model()
            .map_or_else(Vec::new, |local| [local.tokenizer.progress(), local.model.progress()].concat())
    }

    /// The model of this process, where it is one.
    pub fn model(&self) -> Option<&Local> {
        match &self.back {
            Back::Local(local) => Some(local),
            Back::Remote(_) => None,
        }
    }

    /// The server, where it is one.
    pub fn server(&self) -> Option<&Remote> {
        match &self.back {
            Back::Local(_) => None,
            Back::Remote(remote) => Some(remote),
        }
    }

    /// Makes a text ready for a pass.
    ///
    /// # Errors
    /// When it cannot be tokenized.
    pub async fn read(
        &self,
        lane: Lane,
        text: impl AsRef<str> + Send + 'static,
    ) -> Result<Text, VectorError> {
        match &self.back {
            Back::Local(local) => local.read(lane, text).await.map(|tokens| Text(Form::Tokens(tokens))),
            Back::Remote(_) => Ok(Text(Form::Plain(text.as_ref().into()))),
        }
    }

    /// One pass over these texts. Should it fail as a whole, its halves, and so on: a bad text stands alone after as
    /// many steps as they can be halved, and the others are no worse for it. The next pass may be as large as ever.
    pub async fn embed(&self, lane: Lane, texts: &[Text]) -> Passed {
        let mut passed = Passed { vectors: Vec::with_capacity(texts.len()), busy: Duration::ZERO };
        let mut left = vec![texts];
        while let Some(part) = left.pop() {
            match self.pass(lane, part, part.len() == texts.len()).await {
                Ok((vectors, took)) => {
                    passed.busy += took;
                    passed.vectors.extend(vectors.into_iter().map(|vector| checked(vector, took)));
                }
                Err(error) => {
                    metrics::pass_failed(error.cause());
                    if part.len() > 1 && error.may_be_a_text() {
                        let (first, second) = part.split_at(part.len() / 2);
                        left.extend([second, first]);
                    } else {
                        passed.vectors.extend(part.iter().map(|_| Err(error.clone())));
                    }
                }
            }
        }
        passed
    }

    /// The vector of a text that a person waits for.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn vector(&self, text: String) -> Result<Arc<[f32]>, VectorError> {
        let text = self.read(Lane::Express, text).await?;
        let vectors = self.embed(Lane::Express, &[text]).await.vectors;
        let missing = Err(VectorError::Count { expected: 1, received: 0 });
        vectors.into_iter().next().unwrap_or(missing).map(|embedded| embedded.vector)
    }

    /// As many vectors as texts, or none. A pass that is only a `part` of a failed one is no occasion for patience.
    async fn pass(
        &self,
        lane: Lane,
        texts: &[Text],
        whole: bool,
    ) -> Result<(Vec<Vector>, Duration), VectorError> {
        let (vectors, took) = match &self.back {
            Back::Local(local) => {
                let tokens = texts.iter().filter_map(|text| match &text.0 {
                    Form::Tokens(tokens) => Some(tokens.clone()),
                    Form::Plain(_) => None,
                });
                local.pass(lane, tokens.collect()).await?
            }
            Back::Remote(remote) => {
                let plain = texts.iter().filter_map(|text| match &text.0 {
                    Form::Plain(text) => Some(text.as_ref()),
                    Form::Tokens(_) => None,
                });
                remote.pass(lane, &plain.collect::<Vec<_>>(), whole).await?
            }
        };
        match vectors.len() == texts.len() {
            true => Ok((vectors, took)),
            false => Err(VectorError::Count { expected: texts.len(), received: vectors.len() }),
        }
    }
}

/// Counts a vector that has no direction.
fn checked(vector: Vector, took: Duration) -> Result<Embedded, VectorError> {
    let vector = vector.inspect_err(|error| {
        if matches!(error, crate::encoder::EncodeError::UnusableVector { .. }) {
            metrics::nonfinite();
        }
    });
    Ok(Embedded { vector: vector.map_err(VectorError::Encode)?, took })
}
