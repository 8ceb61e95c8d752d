//! The first stage: gives each chunk its Domain, Task and Modifier codes and its CPESH parts, by the decision of a
//! [`Labeller`].
//!
//! There are two inlets, so that chunks that wait for a language model do not block those that need none.

use super::context::StageContext;
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
    next: Inlet<TaggedChunk>,
    stage_context: StageContext,
}

impl TmdExtractor {
    /// A stage that pushes to `next`.
    pub fn new(labeller: Labeller, next: Inlet<TaggedChunk>, stage_context: StageContext) -> Self {
        TmdExtractor { labeller, next, stage_context }
    }

    /// Labels the chunk in a task of its own, and sends the chunk on with them. `source` is what is waited for.
    fn label(&self, parcel: Parcel<Arc<Chunk>>, source: &'static str) {
        let (next, labeller) = (self.next.clone(), self.labeller.clone());
        self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            match task.wait_for(source, labeller.label(parcel.cargo())).await {
                Ok(labelled) => {
                    if parcel.cargo().client_tagging.is_none() || labelled.extraction.call().is_some() {
                        metrics::stage_busy(Stage::Tmd.name(), labelled.took());
                    }
                    let Labelled { tagging, extraction } = labelled;
                    metrics::tagged(tagging.tmd.name(Axis::Domain));
                    metrics::tagged_by(tagging.source.kind(), tagging.source.failure().unwrap_or("none"));
                    let parcel = parcel.map(|chunk| TaggedChunk::new(chunk, tagging, extraction));
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
        self.label(parcel.map(|NeedsNoLlm(chunk)| chunk), "the classifier");
    }
}

impl Handler<Parcel<NeedsLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        self.label(parcel.map(|NeedsLlm(chunk)| chunk), "the LLM");
    }
}
