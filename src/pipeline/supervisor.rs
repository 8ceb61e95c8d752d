//! Heals by generations. When a stage dies, of whatever cause, the whole generation is dropped and the next one is
//! built: there is one way to recover, so it is well tested.
//!
//! The dropped chunks are in the redelivery queue, not answered yet. Those on which the dead stage worked are suspects:
//! each is delivered again alone, with no other chunk in the stages; at the third death it is rejected as poison. The
//! others are simply delivered again. The entrance opens when all of them are admitted.

use super::generation::{EnterAt, Generation, StageReports, Tools};
use super::settings::PipelineSettings;
use crate::error_code::ErrorCode;
use crate::metrics;
use crate::output::throttled;
use crate::rejection::Rejection;
use crate::stages::{DeadLetterQueue, Delivery, Died, PendingDeadLetter, RedeliveryQueue, Stage};
use crate::threads::{LivenessGuard, Progress};
use actix::{Actor, AsyncContext, Context, fut};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Delivery attempts, each ended by the death of a stage that worked on the chunk, after which it is poison.
const ATTEMPTS: u32 = 3;

/// The state of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The number of the current generation, from 1.
    pub generation: u64,
    /// Whether chunks are admitted.
    pub open: bool,
    /// The death that is being healed: the stage and the cause.
    pub healing: Option<(Stage, &'static str)>,
    /// The last death, as `stage: cause`.
    pub last_death: Option<String>,
    /// Of each stage, in the order of [`Stage::ALL`].
    pub deaths: [Deaths; 3],
}

/// The deaths of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deaths {
    /// Since the start; each was followed by a new generation.
    pub count: u64,
    /// `panic`, `stop` or `stalled`.
    pub last_cause: Option<&'static str>,
    /// Chunks on which it worked then: each such death counts as a delivery attempt.
    pub suspects: u64,
    /// Chunks rejected as poison.
    pub poisoned: u64,
}

/// What the supervisor receives, and where it reports.
pub(super) struct SupervisorChannels {
    pub(super) generation: watch::Sender<Option<Generation>>,
    pub(super) health: watch::Sender<Health>,
    pub(super) reports: StageReports,
    pub(super) deaths: mpsc::Receiver<Died>,
    /// The record of the supervisor itself, for the watchdog.
    pub(super) progress: Progress,
}

/// The actor that builds generations.
pub struct Supervisor {
    supervisor_loop: Option<SupervisorLoop>,
}

impl Supervisor {
    pub(super) fn new(
        tools: Tools,
        settings: PipelineSettings,
        redelivery_queue: Arc<RedeliveryQueue>,
        channels: SupervisorChannels,
    ) -> Self {
        let (suspects, innocents) = (VecDeque::new(), VecDeque::new());
        let dead_letters = channels.reports.dead_letters.clone();
        let redeliveries = Redeliveries { redelivery_queue, dead_letters, suspects, innocents };
        let _liveness = channels.progress.live();
        let supervisor_loop = SupervisorLoop { tools, settings, channels, redeliveries, _liveness };
        Supervisor { supervisor_loop: Some(supervisor_loop) }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(supervisor_loop) = self.supervisor_loop.take() {
            context.spawn(fut::wrap_future::<_, Self>(supervisor_loop.run()));
        }
    }
}

struct SupervisorLoop {
    tools: Tools,
    settings: PipelineSettings,
    channels: SupervisorChannels,
    redeliveries: Redeliveries,
    /// Nothing replaces the supervisor: the watchdog ends the process when it is gone.
    _liveness: LivenessGuard,
}

impl SupervisorLoop {
    /// Runs generation after generation, for the life of the process.
    async fn run(mut self) {
        let mut deaths_in_a_row = 0;
        for number in 1.. {
            if deaths_in_a_row > 1 {
                tokio::time::sleep(self.settings.heal.pause(deaths_in_a_row - 2)).await;
            }
            self.tools.fault_hook.before_generation(number);
            let reports = &self.channels.reports;
            let generation = Generation::build(number, &self.tools, &self.settings, reports);
            self.report(|health| health.generation = number);
            metrics::generation(number, true);

            let (died, opened) = self.run_generation(&generation).await;
            if opened.is_some_and(|opened| opened.elapsed() >= self.settings.calm) {
                deaths_in_a_row = 0;
            }
            deaths_in_a_row += 1;

            throttled!(
                error,
                stage = died.stage.name(),
                cause = died.cause,
                generation = number,
                "a stage died; healing"
            );
            metrics::restart(died.stage.name(), died.cause);
            metrics::generation(number, false);
            self.channels.generation.send_replace(None);
            self.report(|health| {
                health.open = false;
                health.healing = Some((died.stage, died.cause));
                health.last_death = Some(format!("{}: {}", died.stage.name(), died.cause));
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.count, deaths.last_cause) = (deaths.count + 1, Some(died.cause));
            });
            generation.retire();
            all_free(&generation, &self.channels.progress).await;
            let Sorted { suspects, poisoned } = self.redeliveries.sort(died);
            metrics::suspects(died.stage.name(), suspects, poisoned);
            self.report(|health| {
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.suspects, deaths.poisoned) = (deaths.suspects + suspects, deaths.poisoned + poisoned);
            });
        }
    }

    /// Admits the redeliveries, opens the entrance, and waits for a death. Gives the death, and since when the entrance
    /// was open, if it was.
    async fn run_generation(&mut self, generation: &Generation) -> (Died, Option<Instant>) {
        let entered = tokio::select! {
            biased;
            died = death(&mut self.channels.deaths, generation.number) => Err(died),
            () = self.redeliveries.admit(generation, &self.channels.progress) => Ok(()),
        };
        if let Err(died) = entered {
            return (died, None);
        }
        let opened = Instant::now();
        self.channels.generation.send_replace(Some(generation.clone()));
        self.report(|health| (health.open, health.healing) = (true, None));
        tracing::info!(generation = generation.number, "the pipeline is open");
        (death(&mut self.channels.deaths, generation.number).await, Some(opened))
    }

    fn report(&self, change: impl FnOnce(&mut Health)) {
        self.channels.health.send_modify(change);
    }
}

/// Waits until no chunk is in any stage. The watchdog ends the process should this never end.
async fn all_free(generation: &Generation, progress: &Progress) {
    let _activity = progress.begin("waiting for chunks on which no task works");
    generation.all_free().await;
}

/// The next death in this generation. Late reports of older generations are skipped.
async fn death(deaths: &mut mpsc::Receiver<Died>, generation: u64) -> Died {
    loop {
        match deaths.recv().await {
            Some(died) if died.generation == generation => return died,
            Some(_) => {}
            // Cannot happen: our own channels hold a sender. Waiting does no harm.
            None => std::future::pending().await,
        }
    }
}

/// Chunks between two generations.
struct Redeliveries {
    redelivery_queue: Arc<RedeliveryQueue>,
    dead_letters: DeadLetterQueue,
    suspects: VecDeque<Delivery>,
    innocents: VecDeque<Delivery>,
}

/// How many of the redeliveries a death concerns.
struct Sorted {
    /// The dead stage worked on them, poison included.
    suspects: u64,
    /// Rejected as poison.
    poisoned: u64,
}

impl Redeliveries {
    /// Takes the chunks over from the redelivery queue after a death.
    fn sort(&mut self, died: Died) -> Sorted {
        let deliveries = self.redelivery_queue.take_all();
        self.sort_deliveries(deliveries, died)
    }

    fn sort_deliveries(&mut self, deliveries: Vec<Delivery>, died: Died) -> Sorted {
        let stage = died.stage.name();
        let mut sorted = Sorted { suspects: 0, poisoned: 0 };
        for mut delivery in deliveries {
            if delivery.in_work_at() != Some(stage) {
                // A suspect stays one until it has its answer.
                let same = if delivery.attempts() > 0 { &mut self.suspects } else { &mut self.innocents };
                same.push_back(delivery);
                continue;
            }
            sorted.suspects += 1;
            if delivery.count_attempt() < ATTEMPTS {
                self.suspects.push_back(delivery);
                continue;
            }
            sorted.poisoned += 1;
            throttled!(error, stage, cpe_id = %delivery.origin().cpe_id, "rejected as poison");
            let message = format!("the {stage} stage died {ATTEMPTS} times while it worked on this chunk");
            let rejection = Rejection::new(ErrorCode::Poison, message);
            self.dead_letters.file(PendingDeadLetter::of_delivery(died.stage, delivery, rejection));
        }
        sorted
    }

    /// Admits the suspects one by one, each with no other chunk in the stages; then the others. Cancelled by a death it
    /// loses none: a chunk that is not in a stage is still in a list here, or in the redelivery queue.
    async fn admit(&mut self, generation: &Generation, progress: &Progress) {
        while let Some(suspect) = self.suspects.pop_front() {
            drop(generation.admit(suspect.again(self.redelivery_queue.clone()), &EnterAt::Extractor).await);
            all_free(generation, progress).await;
        }
        while let Some(delivery) = self.innocents.pop_front() {
            drop(generation.admit(delivery.again(self.redelivery_queue.clone()), &EnterAt::Extractor).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Draft};
    use crate::flow::receipt_channel;
    use crate::outcome::Outcome;
    use crate::stages::dead_letter_queue;

    #[tokio::test]
    async fn a_death_makes_suspects_of_the_chunks_in_work_and_clears_none() {
        let (issuer, mut results) = receipt_channel(8);
        let mut deliveries = Vec::new();
        // Before this death: the attempts, and the stage that worked on the chunk.
        for (tag, (attempts, in_work_at)) in [
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
            let (chunk, receipt) = (Chunk::new(draft).unwrap(), issuer.issue(tag as u64).await.unwrap());
            deliveries.push(Delivery::scripted(Arc::new(chunk), receipt, attempts, in_work_at));
        }
        let (redelivery_queue, suspects, innocents) = (Arc::default(), VecDeque::new(), VecDeque::new());
        // Without a writer, a poisonous chunk is answered at once.
        let dead_letters = dead_letter_queue(1).0;
        let mut redeliveries = Redeliveries { redelivery_queue, dead_letters, suspects, innocents };
        let died = Died { stage: Stage::Embed, generation: 1, cause: "panic" };
        let sorted = redeliveries.sort_deliveries(deliveries, died);
        assert_eq!((sorted.suspects, sorted.poisoned), (3, 1));
        let list = |queue: &VecDeque<Delivery>| -> Vec<(String, u32)> {
            queue.iter().map(|delivery| (delivery.origin().text.clone(), delivery.attempts())).collect()
        };
        let named = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
            pairs.iter().map(|(text, attempts)| ((*text).to_owned(), *attempts)).collect()
        };
        assert_eq!(list(&redeliveries.innocents), named(&[("0", 0), ("1", 0)]));
        assert_eq!(list(&redeliveries.suspects), named(&[("2", 1), ("3", 2), ("4", 1), ("5", 2)]));
        let (tag, outcome) = results.next().await.unwrap();
        assert!(tag == 6 && matches!(outcome, Outcome::Rejected(r) if r.code == ErrorCode::Poison));
    }
}
