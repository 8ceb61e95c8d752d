//! One generation of the stages: how it is built, entered and ended.
//!
//! Read [`Generation::build`] upwards: it is the way of a chunk.

use super::settings::PipelineSettings;
use crate::chunk::{EmbeddedChunk, TaggedChunk};
use crate::flow::{Capacity, SlotEvent, Slots, TaskRegistry};
use crate::metrics;
use crate::stages::{
    DeadLetterQueue, Delivery, Died, EmbedAhead, Embedder, ExitGuard, FaultHook, Inlet, Labeller, NeedsLlm,
    NeedsNoLlm, Stage, StageContext, TmdExtractor, WriteTools, Writer,
};
use crate::threads::Progress;
use crate::vectorizer::Vectorizer;
use actix::{Actor, Addr, Context};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the stages work with, from generation to generation.
#[derive(Clone)]
pub struct Tools {
    /// For the [`TmdExtractor`].
    pub labeller: Labeller,
    /// For the [`Embedder`].
    pub embed: Vectorizer,
    /// For the [`Writer`].
    pub write: WriteTools,
    /// Called with every chunk; tests inject faults with it.
    pub fault_hook: Arc<dyn FaultHook>,
}

impl Tools {
    /// The records of the threads that the stages rely on, and that cannot be replaced while they hang.
    pub(super) fn progress(&self) -> Vec<Progress> {
        let mut progress = self.labeller.progress().to_vec();
        progress.extend(self.embed.progress());
        progress.extend(self.write.indexes.progress());
        progress
    }
}

/// Where the stages of every generation report deaths, tasks and rejected chunks.
#[derive(Clone)]
pub(super) struct StageReports {
    pub(super) deaths: mpsc::Sender<Died>,
    pub(super) tasks: [Arc<TaskRegistry>; 3],
    pub(super) dead_letters: DeadLetterQueue,
}

/// One generation of stages, with the ways in.
#[derive(Clone)]
pub(super) struct Generation {
    /// The number of the generation, from 1.
    pub(super) number: u64,
    write: Inlet<EmbeddedChunk>,
    embed: Inlet<TaggedChunk>,
    local: Inlet<NeedsNoLlm>,
    llm: Option<Inlet<NeedsLlm>>,
    labeller: Labeller,
    /// Of chunks that wait for a language model, then of each stage, in the order in which a chunk passes them.
    slots: [Arc<Slots>; 4],
    retired: CancellationToken,
}

/// Where a chunk enters the stages.
pub(super) enum EnterAt {
    /// At the first one.
    Extractor,
    /// At the second one: it has the codes and the concept vector of the row that it replaces, and another question.
    Embedder(TaggedChunk),
    /// At the last one: it has the codes and the vectors of the row that it replaces.
    Writer(EmbeddedChunk),
}

impl Generation {
    /// Spawns the stages on the current Arbiter: the writer first, the inlets of the extractor last.
    pub(super) fn build(
        number: u64,
        tools: &Tools,
        settings: &PipelineSettings,
        reports: &StageReports,
    ) -> Generation {
        let retired = CancellationToken::new();
        let context = |stage| StageContext {
            exit_guard: ExitGuard::new(stage, number, reports.deaths.clone(), retired.clone()),
            fault_hook: tools.fault_hook.clone(),
            tasks: reports.tasks[stage as usize].clone(),
            dead_letters: reports.dead_letters.clone(),
        };

        let write_slots = observed_slots(Stage::Write.name(), settings.write);
        let writer = spawn(settings.write, Writer::new(tools.write.clone(), context(Stage::Write)));
        let to_writer = Inlet::new(write_slots.clone(), writer.recipient());

        let embed_slots = observed_slots(Stage::Embed.name(), settings.embed);
        let embedder = Embedder::new(tools.embed.clone(), to_writer.clone(), context(Stage::Embed));
        let to_embedder = Inlet::new(embed_slots.clone(), spawn(settings.embed, embedder).recipient());

        let tmd_slots = observed_slots(Stage::Tmd.name(), settings.tmd);
        let both = Capacity { items: settings.tmd.items + settings.llm.items, ..settings.tmd };
        let ahead = (!settings.one_at_a_time).then(|| EmbedAhead::new(tools.embed.clone()));
        let extractor =
            TmdExtractor::new(tools.labeller.clone(), ahead, to_embedder.clone(), context(Stage::Tmd));
        let extractor = spawn(both, extractor);
        let local = Inlet::new(tmd_slots.clone(), extractor.clone().recipient());
        let llm_slots = observed_slots("llm", settings.llm);
        let llm = tools.labeller.may_ask_llm().then(|| Inlet::new(llm_slots.clone(), extractor.recipient()));

        let (write, embed) = (to_writer, to_embedder);
        Generation {
            number,
            write,
            embed,
            local,
            llm,
            labeller: tools.labeller.clone(),
            slots: [llm_slots, tmd_slots, embed_slots, write_slots],
            retired,
        }
    }

    /// Waits for a slot of the inlet that fits the chunk.
    ///
    /// # Errors
    /// The delivery, when the generation is gone.
    pub(super) async fn admit(&self, delivery: Delivery, begin: &EnterAt) -> Result<(), Delivery> {
        let chunk = delivery.origin().clone();
        match (begin, &self.llm) {
            (EnterAt::Writer(embedded), _) => self.write.admit(embedded.clone(), delivery).await,
            (EnterAt::Embedder(tagged), _) => self.embed.admit(tagged.clone(), delivery).await,
            (EnterAt::Extractor, Some(llm)) if self.labeller.needs_llm(&chunk).await => {
                llm.admit(NeedsLlm(chunk), delivery).await
            }
            (EnterAt::Extractor, _) => self.local.admit(NeedsNoLlm(chunk), delivery).await,
        }
    }

    /// Waits until no chunk is in any stage.
    pub(super) async fn all_free(&self) {
        // A parcel leaves a stage only after it has a slot in the next, so one look at each, in order, suffices.
        for slots in &self.slots {
            slots.all_free().await;
        }
    }

    /// Slots in use: for chunks that wait for a language model, then of each stage.
    pub(super) fn used(&self) -> [usize; 4] {
        self.slots.each_ref().map(|slots| slots.used())
    }

    /// As [`Self::used`], each with the number of slots there are.
    pub(super) fn fill(&self) -> [(usize, usize); 4] {
        self.slots.each_ref().map(|slots| (slots.used(), slots.total().items))
    }

    /// Ends the generation. Its chunks go to the redelivery queue, or are answered if their transaction has begun.
    pub(super) fn retire(&self) {
        self.retired.cancel();
        self.slots.iter().for_each(|slots| slots.close());
    }
}

/// Starts a stage whose mailbox is larger than its slots.
fn spawn<A: Actor<Context = Context<A>>>(slots: Capacity, stage: A) -> Addr<A> {
    A::create(|context| {
        context.set_mailbox_capacity(slots.items + Inlet::<NeedsNoLlm>::MAILBOX_MARGIN);
        stage
    })
}

/// Slots with metrics; `stage` is the label.
pub(super) fn observed_slots(stage: &'static str, capacity: Capacity) -> Arc<Slots> {
    metrics::stage_capacity(stage, capacity.items);
    Slots::new(capacity, move |event| match event {
        SlotEvent::Acquired(_) => metrics::stage_queue(stage, 1.0),
        SlotEvent::Released(_) => metrics::stage_queue(stage, -1.0),
        SlotEvent::Resized { .. } => {}
        SlotEvent::Waited(waited) => metrics::backpressure(stage, waited),
    })
}
