//! The second stage: gives each chunk its vectors: of the concept, or of the text where there is none, and of the
//! question where there is one. A chunk that brings its concept vector keeps it.
//!
//! Texts are tokenized as they arrive, and wait. Whenever one of the model's encoders is free, the next batch is taken
//! from the waiting texts: texts of similar length around the oldest one, as many as fit the budget of a pass, fewer
//! when other encoders can take a part of them. There is no timer. Concept and question of a chunk take the same pass
//! where they are about as long; else the question waits after the concept, for texts of its length.

use super::context::{StageContext, TaskContext};
use super::stage::{Inlet, Parcel, ROOM, Stage};
use crate::chunk::{Chunk, ConceptVector, EmbeddedChunk, Embedding, Extraction, TaggedChunk};
use crate::encoder::plan::{Budget, PASS_TOKENS, choose};
use crate::error_code::ErrorCode;
use crate::flow::Batch;
use crate::metrics;
use crate::rejection::Rejection;
use crate::threads::Lane;
use crate::vectorizer::{Embedded, Text, VectorError, Vectorizer};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;

/// A chunk with codes, and its texts as tokens.
struct Tokenized {
    tagged: TaggedChunk,
    texts: PassTexts,
}

/// The texts of a chunk for its next pass.
enum PassTexts {
    /// The concept while its vector is not known, else the question.
    One(Text),
    /// Concept and question, about as long.
    Both { concept: Text, question: Text },
    /// The concept; the question passes after it.
    ConceptFirst { concept: Text, question: Text },
}

impl PassTexts {
    /// The texts for passes within `budget`.
    fn of(text: Text, question: Option<Text>, budget: Budget) -> PassTexts {
        let Some(question) = question else { return PassTexts::One(text) };
        let (shorter, longer) = (text.size().min(question.size()), text.size().max(question.size()));
        let fits = budget.texts >= 2 && 2 * longer <= budget.tokens;
        // The padding of the shorter one costs less than a pass of its own.
        if fits && 3 * shorter >= longer {
            PassTexts::Both { concept: text, question }
        } else {
            PassTexts::ConceptFirst { concept: text, question }
        }
    }

    /// The tokens in the pass, with the padding of the shorter text.
    fn size(&self) -> usize {
        match self {
            PassTexts::Both { concept, question } => 2 * concept.size().max(question.size()),
            PassTexts::One(text) | PassTexts::ConceptFirst { concept: text, .. } => text.size(),
        }
    }

    fn is_pair(&self) -> bool {
        matches!(self, PassTexts::Both { .. })
    }

    /// The text whose vector is the first of the pass.
    fn first(&self) -> &Text {
        let (PassTexts::One(text)
        | PassTexts::Both { concept: text, .. }
        | PassTexts::ConceptFirst { concept: text, .. }) = self;
        text
    }

    fn of_pass(&self) -> impl Iterator<Item = &Text> {
        let second = match self {
            PassTexts::Both { question, .. } => Some(question),
            PassTexts::One(_) | PassTexts::ConceptFirst { .. } => None,
        };
        std::iter::once(self.first()).chain(second)
    }

    /// The texts of the pass after the first.
    fn rest(self) -> PassTexts {
        match self {
            PassTexts::ConceptFirst { question, .. } => PassTexts::One(question),
            other => other,
        }
    }
}

/// What a pass leaves.
#[derive(Default)]
struct PassEnd {
    /// Chunks with all their vectors.
    embedded: Vec<Parcel<EmbeddedChunk>>,
    /// Chunks whose question is embedded next.
    asking: Vec<Parcel<Tokenized>>,
}

/// The actor of the second stage.
pub struct Embedder {
    vectorizer: Vectorizer,
    next: Inlet<EmbeddedChunk>,
    stage_context: StageContext,
    waiting: Batch<Parcel<Tokenized>>,
    /// Chunks that wait with two texts.
    pairs: usize,
    passes: usize,
    tokens_in_passes: usize,
}

impl Embedder {
    /// A stage that pushes to `next`.
    pub fn new(vectorizer: Vectorizer, next: Inlet<EmbeddedChunk>, stage_context: StageContext) -> Self {
        Embedder {
            vectorizer,
            next,
            stage_context,
            waiting: Batch::default(),
            pairs: 0,
            passes: 0,
            tokens_in_passes: 0,
        }
    }

    /// Starts forward passes while an encoder is free and texts wait.
    fn pull(&mut self, context: &mut Context<Self>) {
        let at_once = self.vectorizer.concurrency();
        while !self.waiting.is_empty() && self.passes < at_once && self.is_worth_a_pass() {
            self.start_pass(context);
        }
    }

    /// A pass beside another one needs enough work for both: small passes cost more than an idle encoder.
    fn is_worth_a_pass(&self) -> bool {
        let waiting = self.waiting.size();
        self.passes == 0 || (waiting >= PASS_TOKENS && waiting + self.tokens_in_passes >= 3 * PASS_TOKENS)
    }

    fn start_pass(&mut self, context: &mut Context<Self>) {
        let (mut budget, at_once) = (self.vectorizer.budget(), self.vectorizer.concurrency());
        if self.pairs > 0 {
            budget.texts = (budget.texts / 2).max(1);
        }
        let share = |lengths: &[usize]| budget.share(lengths, self.tokens_in_passes, at_once);
        let mut parcels = self.waiting.take(|lengths| choose(lengths, share(lengths)));
        parcels.iter_mut().for_each(|parcel| parcel.begin_work(Stage::Embed.name()));
        let tokens: usize = parcels.iter().map(|parcel| parcel.cargo().texts.size()).sum();
        self.pairs -= parcels.iter().filter(|parcel| parcel.cargo().texts.is_pair()).count();
        self.passes += 1;
        self.tokens_in_passes += tokens;
        let vectorizer = self.vectorizer.clone();
        let pass = self.stage_context.run_critical(|task| async move {
            task.inject_faults(&parcels).await;
            embed(&vectorizer, parcels, &task).await
        });
        context.spawn(fut::wrap_future::<_, Self>(pass).map(move |ended, stage, context| match ended {
            Ok(PassEnd { embedded, asking }) => {
                stage.passes -= 1;
                stage.tokens_in_passes -= tokens;
                stage.push(embedded);
                asking.into_iter().for_each(|parcel| stage.wait(parcel));
                stage.pull(context);
            }
            Err(_) => context.stop(),
        }));
    }

    /// Puts a text among those that wait for a pass.
    fn wait(&mut self, mut parcel: Parcel<Tokenized>) {
        parcel.rest();
        let (length, attempts) = (parcel.cargo().texts.size(), parcel.attempts());
        self.pairs += usize::from(parcel.cargo().texts.is_pair());
        self.waiting.push(parcel, length, attempts);
    }

    /// Sends embedded chunks on, in a task of its own: the encoder is free while they wait for room.
    fn push(&self, embedded: Vec<Parcel<EmbeddedChunk>>) {
        let next = self.next.clone();
        self.stage_context.run_critical(|task| async move {
            for parcel in embedded {
                task.wait_for(ROOM, next.push(parcel)).await;
            }
        });
    }
}

impl Actor for Embedder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.stage_context.stop_when_retired(context);
    }
}

impl Handler<Parcel<TaggedChunk>> for Embedder {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<TaggedChunk>, context: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        let TaggedChunk { chunk, extraction, concept, .. } = parcel.cargo();
        if let (ConceptVector::Known(embedding), None) = (concept, extraction.probe(chunk)) {
            let embedding = embedding.clone();
            self.push(vec![parcel.at_rest().map(|tagged| with_vectors(tagged, embedding, None))]);
            return;
        }
        let vectorizer = self.vectorizer.clone();
        let reading = self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            let (part, question) = parts(parcel.cargo());
            let read = async {
                let text = vectorizer.read(Lane::Bulk, part).await?;
                let question = match question {
                    Some(question) => Some(vectorizer.read(Lane::Bulk, question).await?),
                    None => None,
                };
                Ok::<_, VectorError>((text, question))
            };
            match task.wait_for("the tokenizer", read).await {
                Ok((text, question)) => {
                    let texts = PassTexts::of(text, question, vectorizer.budget());
                    Some(parcel.map(|tagged| Tokenized { tagged, texts }))
                }
                Err(error) => {
                    task.reject(parcel, rejection(&error));
                    None
                }
            }
        });
        context.spawn(fut::wrap_future::<_, Self>(reading).map(|read, stage, context| match read {
            Ok(Some(parcel)) => {
                stage.wait(parcel);
                stage.pull(context);
            }
            Ok(None) => {}
            Err(_) => context.stop(),
        }));
    }
}

/// A text of a chunk, which is not copied.
struct TextOf {
    chunk: Arc<Chunk>,
    extraction: Extraction,
    is_question: bool,
}

impl AsRef<str> for TextOf {
    fn as_ref(&self) -> &str {
        let TextOf { chunk, extraction, is_question } = self;
        let question = extraction.probe(chunk).filter(|_| *is_question);
        question.unwrap_or_else(|| extraction.embedded_text(chunk))
    }
}

/// The text of a chunk that is embedded first, and the question that is embedded after it.
fn parts(tagged: &TaggedChunk) -> (TextOf, Option<TextOf>) {
    let text = |is_question| TextOf {
        chunk: tagged.chunk.clone(),
        extraction: tagged.extraction.clone(),
        is_question,
    };
    let question = tagged.extraction.probe(&tagged.chunk).map(|_| text(true));
    match &tagged.concept {
        ConceptVector::ToEmbed => (text(false), question),
        ConceptVector::Known(_) => (text(question.is_some()), None),
    }
}

fn with_vectors(tagged: TaggedChunk, embedding: Embedding, question: Option<Arc<[f32]>>) -> EmbeddedChunk {
    let TaggedChunk { chunk, tagging, extraction, .. } = tagged;
    EmbeddedChunk { chunk, tagging, extraction, embedding, question }
}

/// Gives the vectors of one batch; chunks that get none are rejected.
async fn embed(vectorizer: &Vectorizer, parcels: Vec<Parcel<Tokenized>>, task: &TaskContext) -> PassEnd {
    let texts: Vec<Text> =
        parcels.iter().flat_map(|parcel| parcel.cargo().texts.of_pass()).cloned().collect();
    let passed = task.wait_for("the model", vectorizer.embed(Lane::Bulk, &texts)).await;
    metrics::stage_busy(Stage::Embed.name(), passed.busy);
    let mut vectors = passed.vectors.into_iter();
    // There is one for each text.
    let mut next = || vectors.next().unwrap_or(Err(VectorError::Gone));
    let mut end = PassEnd::default();
    for parcel in parcels {
        let (first, second) = (next(), parcel.cargo().texts.is_pair().then(&mut next).transpose());
        match (first, second) {
            (Ok(first), Ok(second)) => finish(parcel, first, second, &mut end),
            (Err(error), _) | (_, Err(error)) => task.reject(parcel, rejection(&error)),
        }
    }
    end
}

/// Adds the vectors of the texts that were embedded: the first, and that of the question of a pair.
fn finish(parcel: Parcel<Tokenized>, first: Embedded, second: Option<Embedded>, end: &mut PassEnd) {
    let Embedded { vector, took } = first;
    let embedding =
        |text: &Text, vector| Embedding { vector, truncated: text.truncated(), unread: text.unread(), took };
    let parcel = parcel.at_rest();
    if matches!(parcel.cargo().texts, PassTexts::ConceptFirst { .. }) {
        end.asking.push(parcel.map(|Tokenized { mut tagged, texts }| {
            tagged.concept = ConceptVector::Known(embedding(texts.first(), vector));
            Tokenized { tagged, texts: texts.rest() }
        }));
        return;
    }
    end.embedded.push(parcel.map(|Tokenized { mut tagged, texts }| {
        match std::mem::replace(&mut tagged.concept, ConceptVector::ToEmbed) {
            ConceptVector::ToEmbed => {
                let concept = embedding(texts.first(), vector);
                with_vectors(tagged, concept, second.map(|question| question.vector))
            }
            ConceptVector::Known(mut concept) => {
                concept.took += took;
                with_vectors(tagged, concept, Some(vector))
            }
        }
    }));
}

fn rejection(error: &VectorError) -> Rejection {
    let code = match error {
        VectorError::Gone => ErrorCode::Draining,
        VectorError::Loading => ErrorCode::Lost,
        error if error.retryable() => ErrorCode::EmbedUnavailable,
        _ => ErrorCode::EmbedFailed,
    };
    Rejection::new(code, error.to_string())
}
