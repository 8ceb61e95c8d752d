//! The first stage: gives each chunk its Domain, Task and Modifier codes and its CPESH parts, by the decision of a
//! [`Labeller`].
//!
//! There are two inlets, so that chunks that wait for a language model do not block those that need none.

use super::context::StageContext;
use super::embed_ahead::EmbedAhead;
use super::labeller::{Labelled, Labeller};
use super::stage::{Inlet, Parcel, ROOM, Stage};
use crate::chunk::{Chunk, TaggedChunk};
use crate::metrics;
use crate::tmd::Axis;
use actix::{Actor, Context, Handler};
use std::sync::Arc;

/// A chunk about which no language model is asked.
pub struct NeedsNoLlm(pub Arc<Chunk>);

/// A chunk about which a language model is asked: for its codes, its CPESH parts, or both.
pub struct NeedsLlm(pub Arc<Chunk>);

/// The actor of the first stage.
pub struct TmdExtractor {
    labeller: Labeller,
    /// `None` where one chunk at a time is taken all the way.
    ahead: Option<EmbedAhead>,
    next: Inlet<TaggedChunk>,
    stage_context: StageContext,
}

impl TmdExtractor {
    /// A stage that pushes to `next`. Where a language model is asked about a chunk and gives no concept, the text is
    /// embedded `ahead`.
    pub fn new(
        labeller: Labeller,
        ahead: Option<EmbedAhead>,
        next: Inlet<TaggedChunk>,
        stage_context: StageContext,
    ) -> Self {
        TmdExtractor { labeller, ahead, next, stage_context }
    }

    /// Labels the chunk in a task of its own, and sends it on. `source` is what is waited for.
    fn label(&self, parcel: Parcel<Arc<Chunk>>, source: &'static str, ahead: Option<EmbedAhead>) {
        let (next, labeller) = (self.next.clone(), self.labeller.clone());
        self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            let labelling = labeller.label(parcel.cargo());
            let (labelled, embedding) = match ahead {
                Some(ahead) => task.wait_for(source, ahead.beside(parcel.cargo(), labelling)).await,
                None => (task.wait_for(source, labelling).await, None),
            };
            match labelled {
                Ok(labelled) => {
                    if parcel.cargo().given_tagging.is_none() || labelled.extraction.call().is_some() {
                        metrics::stage_busy(Stage::Tmd.name(), labelled.took());
                    }
                    let Labelled { tagging, extraction } = labelled;
                    if let Some(tmd) = tagging.tmd {
                        metrics::tagged(tmd.name(Axis::Domain));
                    }
                    metrics::tagged_by(tagging.source.kind(), tagging.source.failure().unwrap_or("none"));
                    let parcel = parcel.map(|chunk| {
                        let tagged = TaggedChunk::new(chunk, tagging, extraction);
                        embedding.into_iter().fold(tagged, TaggedChunk::with_concept)
                    });
                    task.wait_for(ROOM, next.push(parcel)).await;
                }
                Err(rejection) => task.reject(parcel, rejection),
            }
        });
    }
}

impl Actor for TmdExtractor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.stage_context.stop_when_retired(context);
    }
}

impl Handler<Parcel<NeedsNoLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsNoLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        self.label(parcel.map(|NeedsNoLlm(chunk)| chunk), "the classifier", None);
    }
}

impl Handler<Parcel<NeedsLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        let NeedsLlm(chunk) = parcel.cargo();
        let ahead = self.ahead.clone().filter(|_| self.labeller.keeps_text(chunk));
        self.label(parcel.map(|NeedsLlm(chunk)| chunk), "the LLM", ahead);
    }
}
