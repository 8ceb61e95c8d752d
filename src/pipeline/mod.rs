//! The way of a chunk, in one function: [`build`] spawns the three stages bottom-up, each getting the inlet of
//! the next, and ends with the [`Generation`] through which chunks come in.
//!
//! [`Entrance`] stands before the gate and promoted known chunks away before any work; [`in_flight`] has others with a key
//! that is inside wait for its fate. [`Supervisor`] builds a generation of stages, and the next one when a stage of it
//! dies; a watchdog sees to it that nothing stands still. [`Pipeline`] is what the rest of the house holds. This is the
//! only module that names all stages.

mod entrance;
mod in_flight;
mod stall;
mod supervisor;
mod watchdog;

pub use crate::stages::{Receipt, Stage};
pub use entrance::{Arrival, Entrance};
pub use supervisor::{Deaths, Health, Supervisor};
pub use watchdog::{FatalHandler, WatchSettings, exit_at_once};

use crate::chunk::MAX_TEXT_BYTES;
use crate::flow::{Backoff, Capacity, Oldest, Slots, TaskRegistry};
use crate::metrics;
use crate::stages::{
    DeadLetterQueue, Died, Embedder, ExitGuard, FaultHook, Inlet, NeedsLlm, NeedsNoLlm, RedeliveryQueue,
    StageContext, TmdExtractor, TmdTools, WriteTools, Writer, letters,
};
use crate::threads::{Progress, lock};
use crate::vectorizer::Vectorizer;
use actix::{Actor, Addr, Arbiter, Context};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use supervisor::SupervisorChannels;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use watchdog::{WatchTargets, Watchdog};

/// How much the pipeline may hold, and how it heals.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// Slots of the first stage, for chunks that need no language model.
    pub tmd: Capacity,
    /// Slots of the first stage, for chunks that do: none without one, else see [`Self::ask_at_once`].
    pub llm: Capacity,
    /// Slots of the embedder: also the window in which texts of like length find each other.
    pub embed: Capacity,
    /// Slots of the writer.
    pub write: Capacity,
    /// Chunks that wait for the fate of another one with their key: no more than this beside those that are inside.
    pub followers: Capacity,
    /// One chunk at a time, from the entrance to the commit: the control of benchmarks.
    pub one_at_a_time: bool,
    /// Pauses between generations, after the first one, which follows at once.
    pub heal: Backoff,
    /// A generation that was open this long has healed: the pauses start again.
    pub calm: Duration,
    /// How long a chunk waits for the next generation before it is given up as lost.
    pub patience: Duration,
    /// What is taken for hanging, and what is done then.
    pub watch: WatchSettings,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        PipelineSettings {
            // Tagging takes microseconds: enough to keep the next stage supplied.
            tmd: Capacity { items: 128, bytes: 16 * MIB },
            llm: Capacity { items: 0, bytes: 0 },
            // Several forward passes' worth, so that a batch of like lengths can be found.
            embed: Capacity { items: 512, bytes: 32 * MIB },
            // One transaction in flight and the next one gathering.
            write: Capacity { items: 512, bytes: 32 * MIB },
            followers: Capacity { items: 1024, bytes: 16 * MIB },
            one_at_a_time: false,
            heal: Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(60) },
            calm: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            watch: WatchSettings::default(),
        }
    }
}

impl PipelineSettings {
    /// Gives chunks that need a language model their slots: as many as there are calls at once, and a few more,
    /// so that the next call begins as soon as one ends. Not many more: whoever waits here waits behind all of them.
    #[must_use]
    pub fn ask_at_once(mut self, calls: usize) -> Self {
        let items = calls + (calls / 4).clamp(2, 64);
        self.llm = Capacity { items, bytes: items * (MAX_TEXT_BYTES + 1024) };
        self
    }

    /// The most chunks that can be in flight: the sum of the slots.
    pub fn in_flight(&self) -> usize {
        self.tmd.items + self.llm.items + self.embed.items + self.write.items
    }
}

/// What the stages work with, from generation to generation.
#[derive(Clone)]
pub struct Tools {
    /// Of the first stage.
    pub tmd: TmdTools,
    /// Of the second.
    pub embed: Vectorizer,
    /// Of the third.
    pub write: WriteTools,
    /// See [`FaultHook`].
    pub inspect: Arc<dyn FaultHook>,
}

impl Tools {
    /// Of the threads that the stages rely on, and that cannot be replaced while they hang.
    fn progress(&self) -> Vec<Progress> {
        let mut progress = self.tmd.classifier.progress().to_vec();
        progress.extend(self.embed.progress());
        progress.extend(self.write.index.progress());
        progress
    }
}

/// The way into one generation of stages.
#[derive(Clone)]
struct Generation {
    generation: u64,
    local: Inlet<NeedsNoLlm>,
    llm: Option<Inlet<NeedsLlm>>,
    slots: [Arc<Slots>; 4],
    retired: CancellationToken,
}

impl Generation {
    /// Waits until no chunk is inside any stage.
    async fn all_free(&self) {
        // A parcel leaves a stage only after it has a slot in the next, so looking in order of the way suffices.
        for slots in &self.slots {
            slots.all_free().await;
        }
    }

    /// Ends the generation. Whoever is inside goes redelivery_queue, or to its end if that has begun.
    fn retire(&self) {
        self.retired.cancel();
        self.slots.iter().for_each(|slots| slots.close());
    }
}

/// Where stages tell how they are and what they reject, in every generation.
#[derive(Clone)]
struct StageReports {
    deaths: mpsc::Sender<Died>,
    hands: [Arc<TaskRegistry>; 3],
    letters: DeadLetterQueue,
}

/// Spawns a generation on the current Arbiter: the writer first, the gate last. Read upwards it is the way of a
/// chunk.
fn build(generation: u64, tools: &Tools, settings: &PipelineSettings, reports: &StageReports) -> Generation {
    let retired = CancellationToken::new();
    let duty = |stage| StageContext {
        exit_guard: ExitGuard::new(stage, generation, reports.deaths.clone(), retired.clone()),
        inspect: tools.inspect.clone(),
        hands: reports.hands[stage as usize].clone(),
        letters: reports.letters.clone(),
    };

    let write_slots = Slots::new(Stage::Write.name(), settings.write);
    let writer = spawn(settings.write, Writer::new(tools.write.clone(), duty(Stage::Write)));
    let to_writer = Inlet::new(write_slots.clone(), writer.recipient());

    let embed_slots = Slots::new(Stage::Embed.name(), settings.embed);
    let embedder = spawn(settings.embed, Embedder::new(tools.embed.clone(), to_writer, duty(Stage::Embed)));
    let to_embedder = Inlet::new(embed_slots.clone(), embedder.recipient());

    let tmd_slots = Slots::new(Stage::Tmd.name(), settings.tmd);
    let both = Capacity { items: settings.tmd.items + settings.llm.items, ..settings.tmd };
    let extractor = spawn(both, TmdExtractor::new(tools.tmd.clone(), to_embedder, duty(Stage::Tmd)));
    let local = Inlet::new(tmd_slots.clone(), extractor.clone().recipient());
    let llm_slots = Slots::new("llm", settings.llm);
    // Without somebody to ask there is nothing to wait for.
    let llm = tools.tmd.asks_llm().then(|| Inlet::new(llm_slots.clone(), extractor.recipient()));

    Generation { generation, local, llm, slots: [llm_slots, tmd_slots, embed_slots, write_slots], retired }
}

/// Starts a stage whose mailbox is larger than its slots.
fn spawn<A: Actor<Context = Context<A>>>(slots: Capacity, stage: A) -> Addr<A> {
    A::create(|context| {
        context.set_mailbox_capacity(slots.items + Inlet::<NeedsNoLlm>::MAILBOX_MARGIN);
        stage
    })
}

/// A running pipeline: the thread it lives on, and the ways in.
pub struct Pipeline {
    watchdog: Watchdog,
    arbiter: Mutex<Option<Arbiter>>,
    runtime: RuntimeMetrics,
    health: watch::Receiver<Health>,
    hands: [Arc<TaskRegistry>; 3],
    entrance: Entrance,
    slots: usize,
    places: usize,
}

impl Pipeline {
    /// Starts the Arbiter and the supervisor on it, which builds the first generation. The Arbiter runs no CPU
    /// work: models, classifiers and LMDB have threads of their own.
    pub fn start(tools: Tools, settings: PipelineSettings) -> Pipeline {
        metrics::inflight_limit(settings.in_flight());
        let (tell, told) = std::sync::mpsc::channel();
        let arbiter = Arbiter::new();
        // The Arbiter is new and idle: its answer is there as soon as its thread runs.
        arbiter.spawn_fn(move || drop(tell.send(Handle::current().metrics())));
        let runtime = told.recv().unwrap_or_else(|_| Handle::current().metrics());
        let redelivery_queue = Arc::new(RedeliveryQueue::default());
        let (gate, open) = watch::channel(None);
        let (health, healthy) = watch::channel(Health::default());
        let (entrance, promoted) =
            Entrance::new(tools.write.store.clone(), redelivery_queue.clone(), open, &settings);
        arbiter.spawn(entrance.clone().run_promoted_followers(promoted));
        let (slots, places) = (settings.in_flight(), settings.in_flight() + settings.followers.items);
        let (letters, clerk) = letters(tools.write.store.clone(), slots, tools.write.retry);
        arbiter.spawn(clerk.work());
        let (exit_reports, deaths) = mpsc::channel(64);
        let hands: [Arc<TaskRegistry>; 3] = Default::default();
        let reports = StageReports { deaths: exit_reports.clone(), hands: hands.clone(), letters };
        let progress = Progress::new("the supervisor");
        let watched = WatchTargets {
            arbiter: arbiter.handle(),
            supervisor: progress.clone(),
            hands: hands.clone(),
            deaths: exit_reports,
        };
        let watchdog = Watchdog::start(settings.watch.clone(), tools.progress(), watched);
        let channels = SupervisorChannels { gate, health, reports, deaths, progress };
        let supervisor = Supervisor::new(tools, settings, redelivery_queue, channels);
        Supervisor::start_in_arbiter(&arbiter.handle(), |_| supervisor);
        let arbiter = Mutex::new(Some(arbiter));
        Pipeline { watchdog, arbiter, runtime, health: healthy, hands, entrance, slots, places }
    }

    /// The way in.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// What the supervisor says.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The oldest piece of work in the hands of each stage, in the order of the way.
    pub fn oldest_work(&self) -> [Option<Oldest>; 3] {
        self.hands.each_ref().map(|hands| hands.oldest())
    }

    /// Threads that are at something: who, at what, for how long.
    pub fn threads_at_work(&self) -> Vec<(Arc<str>, &'static str, Duration)> {
        self.watchdog.at_work()
    }

    /// Waits for the supervisor to say something that satisfies `wanted`.
    pub async fn wait_for(&self, wanted: impl FnMut(&Health) -> bool) {
        drop(self.health.clone().wait_for(wanted).await);
    }

    /// How long the pipeline's thread has been at work. Its share of the time tells whether something runs there
    /// that should not.
    pub fn busy(&self) -> Duration {
        self.runtime.worker_total_busy_duration(0)
    }

    /// The most chunks that can be in flight.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The most chunks that can be held: in flight, or waiting for the fate of another one.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Turns arrivals away, waits until every accepted chunk has its answer, then ends the thread, and with it the
    /// stages' hold on model, store and index.
    pub async fn stop(&self) {
        self.entrance.drain().await;
        self.watchdog.leave_pipeline();
        let arbiter = lock(&self.arbiter).take();
        if let Some(arbiter) = arbiter {
            arbiter.stop();
            // Short: the thread only has to drop what it holds. That it panicked is no news at its end.
            drop(arbiter.join());
        }
    }
}
