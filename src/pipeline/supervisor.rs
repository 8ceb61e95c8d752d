//! Heals by generations. When a stage dies, of whatever cause, the whole generation is dropped and the next one
//! is built; there is one way to recover, so it is well trodden.
//!
//! Dropped chunks come redelivery_queue with their answers still owed. Those in the hands of the stage that died are
//! suspects: each goes again alone, with nobody else inside; at the third death in its hands it is rejected as
//! poison. The others are no suspects and simply go again. Only when redelivery_queue is empty does the entrance open.

use super::{Generation, PipelineSettings, StageReports, Tools, build};
use crate::error_code::ErrorCode;
use crate::metrics;
use crate::rejection::Rejection;
use crate::stages::{DeadLetterQueue, Delivery, Died, PendingDeadLetter, Redelivery, RedeliveryQueue, Stage};
use crate::threads::{LivenessGuard, Progress};
use actix::{Actor, AsyncContext, Context, fut};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Deaths in the hands of a stage after which a chunk is poison.
const ATTEMPTS: u32 = 3;

/// The state of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Counts from 1.
    pub generation: u64,
    /// Chunks are let in.
    pub open: bool,
    /// The death that is being healed: whose, and of what.
    pub healing: Option<(Stage, &'static str)>,
    /// The last death, as `stage: cause`.
    pub last_death: Option<String>,
    /// Of each stage, in the order of the way.
    pub deaths: [Deaths; 3],
}

/// How often a stage died, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deaths {
    /// Since the start; each was followed by a new generation.
    pub count: u64,
    /// `panic`, `stop` or `stalled`.
    pub last_cause: Option<&'static str>,
    /// Chunks that it had in hand then: each such death counts as an attempt.
    pub suspects: u64,
    /// Chunks rejected as poison.
    pub poisoned: u64,
}

/// What the supervisor hears, and where it says what it does.
pub(super) struct SupervisorChannels {
    pub(super) gate: watch::Sender<Option<Generation>>,
    pub(super) health: watch::Sender<Health>,
    pub(super) reports: StageReports,
    pub(super) deaths: mpsc::Receiver<Died>,
    /// Of the supervisor itself, for the watchdog.
    pub(super) progress: Progress,
}

/// The actor that builds generations.
pub struct Supervisor {
    work: Option<SupervisorLoop>,
}

impl Supervisor {
    pub(super) fn new(
        tools: Tools,
        settings: PipelineSettings,
        redelivery_queue: Arc<RedeliveryQueue>,
        channels: SupervisorChannels,
    ) -> Self {
        let (suspects, innocents) = (VecDeque::new(), VecDeque::new());
        let redeliveries =
            Redeliveries { redelivery_queue, letters: channels.reports.letters.clone(), suspects, innocents };
        let _life = channels.progress.live();
        Supervisor { work: Some(SupervisorLoop { tools, settings, channels, redeliveries, _life }) }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(work) = self.work.take() {
            context.spawn(fut::wrap_future::<_, Self>(work.supervise()));
        }
    }
}

struct SupervisorLoop {
    tools: Tools,
    settings: PipelineSettings,
    channels: SupervisorChannels,
    redeliveries: Redeliveries,
    /// Nobody can do this work when it is gone.
    _life: LivenessGuard,
}

impl SupervisorLoop {
    /// Generation after generation, for the life of the process.
    async fn supervise(mut self) {
        let mut deaths_in_a_row = 0;
        for generation in 1.. {
            if deaths_in_a_row > 1 {
                tokio::time::sleep(self.settings.heal.pause(deaths_in_a_row - 2)).await;
            }
            self.tools.inspect.generation(generation);
            let gate = build(generation, &self.tools, &self.settings, &self.channels.reports);
            self.say(|health| health.generation = generation);
            metrics::generation(generation, true);

            let (died, opened) = self.run(&gate).await;
            if opened.is_some_and(|opened| opened.elapsed() >= self.settings.calm) {
                deaths_in_a_row = 0;
            }
            deaths_in_a_row += 1;

            tracing::error!(
                stage = died.stage.name(),
                cause = died.cause,
                generation,
                "a stage died; healing"
            );
            metrics::restart(died.stage.name(), died.cause);
            metrics::generation(generation, false);
            self.channels.gate.send_replace(None);
            self.say(|health| {
                health.open = false;
                health.healing = Some((died.stage, died.cause));
                health.last_death = Some(format!("{}: {}", died.stage.name(), died.cause));
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.count, deaths.last_cause) = (deaths.count + 1, Some(died.cause));
            });
            gate.retire();
            all_free(&gate, &self.channels.progress).await;
            let Sorted { suspects, poisoned } = self.redeliveries.sort(died);
            metrics::suspects(died.stage.name(), suspects, poisoned);
            self.say(|health| {
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.suspects, deaths.poisoned) = (deaths.suspects + suspects, deaths.poisoned + poisoned);
            });
        }
    }

    /// Brings the redeliveries in, opens the entrance, and waits for a death. Says who died, and since when the
    /// entrance was open, if it was.
    async fn run(&mut self, gate: &Generation) -> (Died, Option<Instant>) {
        let entered = tokio::select! {
            biased;
            died = death(&mut self.channels.deaths, gate.generation) => Err(died),
            () = self.redeliveries.enter(gate, &self.channels.progress) => Ok(()),
        };
        if let Err(died) = entered {
            return (died, None);
        }
        let opened = Instant::now();
        self.channels.gate.send_replace(Some(gate.clone()));
        self.say(|health| (health.open, health.healing) = (true, None));
        tracing::info!(generation = gate.generation, "the pipeline is open");
        (death(&mut self.channels.deaths, gate.generation).await, Some(opened))
    }

    fn say(&self, change: impl FnOnce(&mut Health)) {
        self.channels.health.send_modify(change);
    }
}

/// Waits until nobody is inside; seen by the watchdog, should it be for ever.
async fn all_free(gate: &Generation, progress: &Progress) {
    let _activity = progress.begin("waiting for chunks that nobody works on");
    gate.all_free().await;
}

/// The next death in this generation; late news of older ones are skipped.
async fn death(deaths: &mut mpsc::Receiver<Died>, generation: u64) -> Died {
    loop {
        match deaths.recv().await {
            Some(died) if died.generation == generation => return died,
            Some(_) => {}
            // Cannot happen: our own channels holds a sender. Waiting is the harmless answer.
            None => std::future::pending().await,
        }
    }
}

/// Chunks between two generations.
struct Redeliveries {
    redelivery_queue: Arc<RedeliveryQueue>,
    letters: DeadLetterQueue,
    suspects: VecDeque<Redelivery>,
    innocents: VecDeque<Redelivery>,
}

/// What a death made of the chunks that came redelivery_queue.
struct Sorted {
    /// In the hands of the stage that died, poison included.
    suspects: u64,
    /// Rejected.
    poisoned: u64,
}

impl Redeliveries {
    /// Takes redelivery_queue's chunks over after a death.
    fn sort(&mut self, died: Died) -> Sorted {
        let redeliveries = self.redelivery_queue.empty();
        self.judge(redeliveries, died)
    }

    fn judge(&mut self, redeliveries: Vec<Redelivery>, died: Died) -> Sorted {
        let mut sorted = Sorted { suspects: 0, poisoned: 0 };
        for mut redelivery in redeliveries {
            if redelivery.in_work_at != Some(died.stage.name()) {
                // One that has been a suspect stays one, until it has its answer.
                let same =
                    if redelivery.delivery_attempts > 0 { &mut self.suspects } else { &mut self.innocents };
                same.push_back(redelivery);
                continue;
            }
            sorted.suspects += 1;
            redelivery.delivery_attempts += 1;
            if redelivery.delivery_attempts < ATTEMPTS {
                self.suspects.push_back(redelivery);
                continue;
            }
            sorted.poisoned += 1;
            tracing::error!(stage = died.stage.name(), cpe_id = %redelivery.origin.cpe_id, "rejected as poison");
            let message =
                format!("the {} stage died {ATTEMPTS} times with this chunk in hand", died.stage.name());
            let rejection = Rejection::new(ErrorCode::Poison, message);
            self.letters.file(PendingDeadLetter::of_stray(died.stage, redelivery, rejection));
        }
        sorted
    }

    /// Suspects one by one, each with nobody else inside; then the others. Cancelled by a death, it loses nobody:
    /// who is not inside is still in a queue, or at redelivery_queue.
    async fn enter(&mut self, gate: &Generation, progress: &Progress) {
        while let Some(suspect) = self.suspects.pop_front() {
            drop(gate.admit(Delivery::again(suspect, self.redelivery_queue.clone())).await);
            all_free(gate, progress).await;
        }
        while let Some(redelivery) = self.innocents.pop_front() {
            drop(gate.admit(Delivery::again(redelivery, self.redelivery_queue.clone())).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Draft};
    use crate::flow::receipt_channel;
    use crate::outcome::Outcome;

    #[tokio::test]
    async fn a_death_makes_suspects_of_those_in_its_hands_and_clears_nobody() {
        let (book, mut results) = receipt_channel(8);
        let mut redeliveries = Vec::new();
        // Before this death: how often suspected, and in whose hands now.
        for (tag, (delivery_attempts, in_work_at)) in [
            (0, None),
            (0, Some("tmd")),
            (0, Some("embed")),
            (1, Some("embed")),
            (1, None),
            (2, Some("tmd")),
            (2, Some("embed")),
        ]
        .into_iter()
        .enumerate()
        {
            let draft = Draft { dataset: "d".into(), text: format!("{tag}"), ..Draft::default() };
            let (chunk, receipt) = (Chunk::new(draft).unwrap(), book.issue(tag as u64).await.unwrap());
            redeliveries.push(Redelivery::scripted(Arc::new(chunk), receipt, delivery_attempts, in_work_at));
        }
        let (redelivery_queue, suspects, innocents) = (Arc::default(), VecDeque::new(), VecDeque::new());
        let mut sorting =
            Redeliveries { redelivery_queue, letters: DeadLetterQueue::to_nobody(), suspects, innocents };
        let died = Died { stage: Stage::Embed, generation: 1, cause: "panic" };
        let sorted = sorting.judge(redeliveries, died);
        assert_eq!((sorted.suspects, sorted.poisoned), (3, 1));
        let list = |queue: &VecDeque<Redelivery>| -> Vec<(String, u32)> {
            queue
                .iter()
                .map(|redelivery| (redelivery.origin.text.clone(), redelivery.delivery_attempts))
                .collect()
        };
        let named = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
            pairs.iter().map(|(name, delivery_attempts)| ((*name).to_owned(), *delivery_attempts)).collect()
        };
        assert_eq!(list(&sorting.innocents), named(&[("0", 0), ("1", 0)]));
        assert_eq!(list(&sorting.suspects), named(&[("2", 1), ("3", 2), ("4", 1), ("5", 2)]));
        let (tag, outcome) = results.next().await.unwrap();
        assert!(tag == 6 && matches!(outcome, Outcome::Rejected(r) if r.code == ErrorCode::Poison));
    }
}
