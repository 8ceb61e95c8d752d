//! Heals by generations. When a stage dies, of whatever cause, the whole generation is dropped and the next one
//! is built; there is one way to recover, so it is well trodden.
//!
//! Dropped chunks come home with their answers still owed. Those in the hands of the stage that died are
//! suspects: each goes again alone, with nobody else inside; at the third death in its hands it is rejected as
//! poison. The others are no suspects and simply go again. Only when home is empty does the entrance open.

use super::{Gate, PipelineSettings, Reports, Tools, build};
use crate::metrics;
use crate::outcome::{Cause, Rejection};
use crate::pulse::{Life, Pulse};
use crate::stages::{Died, Home, Letter, Letters, Stage, Stray, Trip};
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
pub(super) struct Desk {
    pub(super) gate: watch::Sender<Option<Gate>>,
    pub(super) health: watch::Sender<Health>,
    pub(super) reports: Reports,
    pub(super) deaths: mpsc::Receiver<Died>,
    /// Of the supervisor itself, for the watchdog.
    pub(super) pulse: Pulse,
}

/// The actor that builds generations.
pub struct Supervisor {
    work: Option<Work>,
}

impl Supervisor {
    pub(super) fn new(tools: Tools, settings: PipelineSettings, home: Arc<Home>, desk: Desk) -> Self {
        let (suspects, innocents) = (VecDeque::new(), VecDeque::new());
        let strays = Strays { home, letters: desk.reports.letters.clone(), suspects, innocents };
        let _life = desk.pulse.live();
        Supervisor { work: Some(Work { tools, settings, desk, strays, _life }) }
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

struct Work {
    tools: Tools,
    settings: PipelineSettings,
    desk: Desk,
    strays: Strays,
    /// Nobody can do this work when it is gone.
    _life: Life,
}

impl Work {
    /// Generation after generation, for the life of the process.
    async fn supervise(mut self) {
        let mut deaths_in_a_row = 0;
        for generation in 1.. {
            if deaths_in_a_row > 1 {
                tokio::time::sleep(self.settings.heal.pause(deaths_in_a_row - 2)).await;
            }
            self.tools.inspect.generation(generation);
            let gate = build(generation, &self.tools, &self.settings, &self.desk.reports);
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
            self.desk.gate.send_replace(None);
            self.say(|health| {
                health.open = false;
                health.healing = Some((died.stage, died.cause));
                health.last_death = Some(format!("{}: {}", died.stage.name(), died.cause));
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.count, deaths.last_cause) = (deaths.count + 1, Some(died.cause));
            });
            gate.retire();
            all_home(&gate, &self.desk.pulse).await;
            let Sorted { suspects, poisoned } = self.strays.sort(died);
            metrics::suspects(died.stage.name(), suspects, poisoned);
            self.say(|health| {
                let deaths = &mut health.deaths[died.stage as usize];
                (deaths.suspects, deaths.poisoned) = (deaths.suspects + suspects, deaths.poisoned + poisoned);
            });
        }
    }

    /// Brings the strays in, opens the entrance, and waits for a death. Says who died, and since when the
    /// entrance was open, if it was.
    async fn run(&mut self, gate: &Gate) -> (Died, Option<Instant>) {
        let entered = tokio::select! {
            biased;
            died = death(&mut self.desk.deaths, gate.generation) => Err(died),
            () = self.strays.enter(gate, &self.desk.pulse) => Ok(()),
        };
        if let Err(died) = entered {
            return (died, None);
        }
        let opened = Instant::now();
        self.desk.gate.send_replace(Some(gate.clone()));
        self.say(|health| (health.open, health.healing) = (true, None));
        tracing::info!(generation = gate.generation, "the pipeline is open");
        (death(&mut self.desk.deaths, gate.generation).await, Some(opened))
    }

    fn say(&self, change: impl FnOnce(&mut Health)) {
        self.desk.health.send_modify(change);
    }
}

/// Waits until nobody is inside; seen by the watchdog, should it be for ever.
async fn all_home(gate: &Gate, pulse: &Pulse) {
    let _spell = pulse.begin("waiting for chunks that nobody works on");
    gate.all_home().await;
}

/// The next death in this generation; late news of older ones are skipped.
async fn death(deaths: &mut mpsc::Receiver<Died>, generation: u64) -> Died {
    loop {
        match deaths.recv().await {
            Some(died) if died.generation == generation => return died,
            Some(_) => {}
            // Cannot happen: our own desk holds a sender. Waiting is the harmless answer.
            None => std::future::pending().await,
        }
    }
}

/// Chunks between two generations.
struct Strays {
    home: Arc<Home>,
    letters: Letters,
    suspects: VecDeque<Stray>,
    innocents: VecDeque<Stray>,
}

/// What a death made of the chunks that came home.
struct Sorted {
    /// In the hands of the stage that died, poison included.
    suspects: u64,
    /// Rejected.
    poisoned: u64,
}

impl Strays {
    /// Takes home's chunks over after a death.
    fn sort(&mut self, died: Died) -> Sorted {
        let strays = self.home.empty();
        self.judge(strays, died)
    }

    fn judge(&mut self, strays: Vec<Stray>, died: Died) -> Sorted {
        let mut sorted = Sorted { suspects: 0, poisoned: 0 };
        for mut stray in strays {
            if stray.in_hand != Some(died.stage.name()) {
                // One that has been a suspect stays one, until it has its answer.
                let same = if stray.attempts > 0 { &mut self.suspects } else { &mut self.innocents };
                same.push_back(stray);
                continue;
            }
            sorted.suspects += 1;
            stray.attempts += 1;
            if stray.attempts < ATTEMPTS {
                self.suspects.push_back(stray);
                continue;
            }
            sorted.poisoned += 1;
            tracing::error!(stage = died.stage.name(), cpe_id = %stray.origin.cpe_id, "rejected as poison");
            let message =
                format!("the {} stage died {ATTEMPTS} times with this chunk in hand", died.stage.name());
            let rejection = Rejection::new(Cause::Poison, message);
            self.letters.file(Letter::of_stray(died.stage, stray, rejection));
        }
        sorted
    }

    /// Suspects one by one, each with nobody else inside; then the others. Cancelled by a death, it loses nobody:
    /// who is not inside is still in a queue, or at home.
    async fn enter(&mut self, gate: &Gate, pulse: &Pulse) {
        while let Some(suspect) = self.suspects.pop_front() {
            drop(gate.admit(Trip::again(suspect, self.home.clone())).await);
            all_home(gate, pulse).await;
        }
        while let Some(stray) = self.innocents.pop_front() {
            drop(gate.admit(Trip::again(stray, self.home.clone())).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Draft};
    use crate::flow::receipt_book;
    use crate::outcome::Outcome;

    #[tokio::test]
    async fn a_death_makes_suspects_of_those_in_its_hands_and_clears_nobody() {
        let (book, mut results) = receipt_book(8);
        let mut strays = Vec::new();
        // Before this death: how often suspected, and in whose hands now.
        for (tag, (attempts, in_hand)) in [
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
            strays.push(Stray::scripted(Arc::new(chunk), receipt, attempts, in_hand));
        }
        let (home, suspects, innocents) = (Arc::default(), VecDeque::new(), VecDeque::new());
        let mut sorting = Strays { home, letters: Letters::to_nobody(), suspects, innocents };
        let died = Died { stage: Stage::Embed, generation: 1, cause: "panic" };
        let sorted = sorting.judge(strays, died);
        assert_eq!((sorted.suspects, sorted.poisoned), (3, 1));
        let list = |queue: &VecDeque<Stray>| -> Vec<(String, u32)> {
            queue.iter().map(|stray| (stray.origin.text.clone(), stray.attempts)).collect()
        };
        let named = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
            pairs.iter().map(|(name, attempts)| ((*name).to_owned(), *attempts)).collect()
        };
        assert_eq!(list(&sorting.innocents), named(&[("0", 0), ("1", 0)]));
        assert_eq!(list(&sorting.suspects), named(&[("2", 1), ("3", 2), ("4", 1), ("5", 2)]));
        let (tag, outcome) = results.next().await.unwrap();
        assert!(tag == 6 && matches!(outcome, Outcome::Rejected(r) if r.cause == Cause::Poison));
    }
}
