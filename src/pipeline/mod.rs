//! The pipeline: three stages, the entrance before them, and what heals them.
//!
//! [`Generation::build`](generation::Generation::build) spawns the stages bottom-up, each with the inlet of the next:
//! it is the way of a chunk in one function. The [`Entrance`] answers known chunks before any work is spent on them;
//! while a key is in flight, later chunks with that key wait for its outcome ([`in_flight`]). The [`Supervisor`] builds
//! a generation of stages, and the next one when a stage dies; a [`watchdog`] finds what is stalled. [`Pipeline`] is
//! what the rooms above hold.

mod bottleneck;
mod dead_letter_writer;
mod entrance;
mod generation;
mod in_flight;
mod settings;
mod stall;
mod supervisor;
mod watchdog;

pub use crate::stages::{Receipt, Stage, Tagger};
pub use bottleneck::Bottleneck;
pub use entrance::Entrance;
pub use generation::Tools;
pub use in_flight::Arrival;
pub use settings::{PipelineSettings, WRITE_BATCH_ROWS};
pub use supervisor::{Deaths, Health, Supervisor};
pub use watchdog::{FatalHandler, WatchSettings, exit_at_once};

use crate::flow::{OldestTask, TaskRegistry};
use crate::metrics;
use crate::stages::{RedeliveryQueue, dead_letter_queue, waits_for_index};
use crate::threads::{Progress, lock};
use actix::{Actor, Arbiter};
use bottleneck::{Fill, bottleneck};
use dead_letter_writer::DeadLetterWriter;
use generation::StageReports;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use supervisor::SupervisorChannels;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{mpsc, watch};
use watchdog::{WatchTargets, Watchdog};

/// A running pipeline: its thread, its state, and the way in.
pub struct Pipeline {
    watchdog: Watchdog,
    arbiter: Mutex<Option<Arbiter>>,
    runtime: RuntimeMetrics,
    health: watch::Receiver<Health>,
    tasks: [Arc<TaskRegistry>; 3],
    entrance: Entrance,
    slots: usize,
    capacity: usize,
}

impl Pipeline {
    /// Starts an Arbiter and the supervisor on it, which builds the first generation. The Arbiter runs no CPU work:
    /// models, classifiers and LMDB have threads of their own.
    pub fn start(tools: Tools, settings: PipelineSettings) -> Pipeline {
        metrics::inflight_limit(settings.in_flight());
        let (tell, told) = std::sync::mpsc::channel();
        let arbiter = Arbiter::new();
        // The Arbiter is new and idle: its answer is there as soon as its thread runs.
        arbiter.spawn_fn(move || drop(tell.send(Handle::current().metrics())));
        let runtime = told.recv().unwrap_or_else(|_| Handle::current().metrics());
        let redelivery_queue = Arc::new(RedeliveryQueue::default());
        let (generation, current) = watch::channel(None);
        let (health, health_reader) = watch::channel(Health::default());
        let (entrance, promoted) =
            Entrance::new(tools.write.store.clone(), redelivery_queue.clone(), current, &settings);
        arbiter.spawn(entrance.clone().run_promoted_followers(promoted));
        let (slots, capacity) = (settings.in_flight(), settings.in_flight() + settings.followers.items);
        let (dead_letters, queue) = dead_letter_queue(slots);
        let (store, pauses) = (tools.write.store.clone(), tools.write.retry);
        arbiter.spawn(DeadLetterWriter { queue, store, pauses }.run());
        let (exit_reports, deaths) = mpsc::channel(64);
        let tasks = Stage::ALL.map(|stage| TaskRegistry::new(stage.name()));
        let reports = StageReports { deaths: exit_reports.clone(), tasks: tasks.clone(), dead_letters };
        let progress = Progress::new("the supervisor");
        let targets = WatchTargets {
            arbiter: arbiter.handle(),
            supervisor: progress.clone(),
            tasks: tasks.clone(),
            deaths: exit_reports,
        };
        let watchdog = Watchdog::start(settings.watch.clone(), tools.progress(), targets);
        let channels = SupervisorChannels { generation, health, reports, deaths, progress };
        let supervisor = Supervisor::new(tools, settings, redelivery_queue, channels);
        Supervisor::start_in_arbiter(&arbiter.handle(), |_| supervisor);
        let arbiter = Mutex::new(Some(arbiter));
        Pipeline { watchdog, arbiter, runtime, health: health_reader, tasks, entrance, slots, capacity }
    }

    /// The entrance for chunks.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// The state, as the supervisor last reported it.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The oldest task of each stage, in the order of [`Stage::ALL`].
    pub fn oldest_work(&self) -> [Option<OldestTask>; 3] {
        self.tasks.each_ref().map(|tasks| tasks.oldest())
    }

    /// What limits the rate of ingest at this moment; `None` while nothing is in flight.
    pub fn bottleneck(&self) -> Option<Bottleneck> {
        let [.., writing] = self.oldest_work();
        bottleneck(Fill {
            slots: self.entrance.fill().unwrap_or_default(),
            waiting: self.entrance.waiting(),
            index_behind: writing.is_some_and(waits_for_index),
        })
    }

    /// The threads at work: the name, the work, and for how long.
    pub fn threads_at_work(&self) -> Vec<(Arc<str>, &'static str, Duration)> {
        self.watchdog.at_work()
    }

    /// Waits for a state that satisfies `wanted`.
    pub async fn wait_for(&self, wanted: impl FnMut(&Health) -> bool) {
        drop(self.health.clone().wait_for(wanted).await);
    }

    /// The total time for which the pipeline's thread was at work. A large share means that something runs there that
    /// should not.
    pub fn busy(&self) -> Duration {
        self.runtime.worker_total_busy_duration(0)
    }

    /// The most chunks that can be in flight.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The most chunks that can be held: in flight, or waiting for the outcome of another one.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Rejects new chunks, waits until every accepted one has its answer, then ends the thread, and with it the stages'
    /// handles of model, store and index.
    pub async fn stop(&self) {
        self.entrance.drain().await;
        self.watchdog.leave_pipeline();
        let arbiter = lock(&self.arbiter).take();
        if let Some(arbiter) = arbiter {
            arbiter.stop();
            // Short: the thread only drops what it holds. A panic in it was printed when it happened.
            drop(arbiter.join());
        }
    }
}
