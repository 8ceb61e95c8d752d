//! The first stage: gives each chunk its Domain, Task and Modifier codes, by the decision of a [`Tagger`].
//!
//! There are two inlets, so that chunks that wait for a language model do not block those that need none.

use super::context::StageContext;
use super::stage::{Inlet, Parcel, ROOM, Stage};
use super::tagger::Tagger;
use crate::chunk::{Chunk, Extraction, TaggedChunk};
use crate::metrics;
use crate::tmd::Axis;
use actix::{Actor, Context, Handler};
use std::sync::Arc;

/// A chunk whose codes are given or found locally.
pub struct NeedsNoLlm(pub Arc<Chunk>);

/// A chunk whose codes a language model is asked for.
pub struct NeedsLlm(pub Arc<Chunk>);

/// The actor of the first stage.
pub struct TmdExtractor {
    tagger: Tagger,
    next: Inlet<TaggedChunk>,
    stage_context: StageContext,
}

impl TmdExtractor {
    /// A stage that pushes to `next`.
    pub fn new(tagger: Tagger, next: Inlet<TaggedChunk>, stage_context: StageContext) -> Self {
        TmdExtractor { tagger, next, stage_context }
    }

    /// Finds the codes in a task of its own, and sends the chunk on with them. `source` is what is waited for.
    fn give_codes(&self, parcel: Parcel<Arc<Chunk>>, source: &'static str) {
        let (next, tagger) = (self.next.clone(), self.tagger.clone());
        self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            match task.wait_for(source, tagger.tag(parcel.cargo())).await {
                Ok(tagging) => {
                    if parcel.cargo().client_tagging.is_none() {
                        metrics::stage_busy(Stage::Tmd.name(), tagging.took.unwrap_or_default());
                    }
                    metrics::tagged(tagging.tmd.name(Axis::Domain));
                    metrics::tagged_by(tagging.source.kind(), tagging.source.failure().unwrap_or("none"));
                    let parcel = parcel.map(|chunk| {
                        let extraction = Extraction::without_llm(&chunk);
                        TaggedChunk::new(chunk, tagging, extraction)
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
        self.give_codes(parcel.map(|NeedsNoLlm(chunk)| chunk), "the classifier");
    }
}

impl Handler<Parcel<NeedsLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        self.give_codes(parcel.map(|NeedsLlm(chunk)| chunk), "the LLM");
    }
}
