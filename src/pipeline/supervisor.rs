//! Heals by generations. When a stage dies, of whatever cause, the whole generation is dropped and the next one
//! is built; there is one way to recover, so it is well trodden.
//!
//! Dropped chunks come home with their answers still owed. Those in the hands of the stage that died are
//! suspects: each goes again alone, with nobody else inside; at the third death in its hands it is rejected as
//! poison. The others are no suspects and simply go again. Only when home is empty does the entrance open.

use super::{Gate, PipelineSettings, Tools, build};
use crate::metrics;
use crate::outcome::{Cause, Rejection};
use crate::stages::{Died, Home, Letter, Letters, Stray, Trip};
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
    /// The last death, as `stage: cause`.
    pub last_death: Option<String>,
    /// Chunks rejected as poison.
    pub poisoned: u64,
}

/// The actor that builds generations.
pub struct Supervisor {
    work: Option<Work>,
}

impl Supervisor {
    pub(super) fn new(
        tools: Tools,
        settings: PipelineSettings,
        home: Arc<Home>,
        letters: Letters,
        (gate, health): (watch::Sender<Option<Gate>>, watch::Sender<Health>),
    ) -> Self {
        let (lifelines, deaths) = mpsc::channel(64);
        let (suspects, innocents) = (VecDeque::new(), VecDeque::new());
        let strays = Strays { home, letters, suspects, innocents };
        Supervisor { work: Some(Work { tools, settings, gate, health, lifelines, deaths, strays }) }
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
    gate: watch::Sender<Option<Gate>>,
    health: watch::Sender<Health>,
    lifelines: mpsc::Sender<Died>,
    deaths: mpsc::Receiver<Died>,
    strays: Strays,
}

impl Work {
    /// Generation after generation, for the life of the process.
    async fn supervise(mut self) {
        let mut deaths_in_a_row = 0;
        for generation in 1.. {
            if deaths_in_a_row > 1 {
                tokio::time::sleep(self.settings.heal.pause(deaths_in_a_row - 2)).await;
            }
            let gate = build(generation, &self.tools, &self.settings, &self.strays.letters, &self.lifelines);
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
            self.gate.send_replace(None);
            self.say(|health| {
                health.open = false;
                health.last_death = Some(format!("{}: {}", died.stage.name(), died.cause));
            });
            gate.retire();
            gate.all_home().await;
            let poisoned = self.strays.sort(died);
            self.say(|health| health.poisoned += poisoned);
        }
    }

    /// Brings the strays in, opens the entrance, and waits for a death. Says who died, and since when the
    /// entrance was open, if it was.
    async fn run(&mut self, gate: &Gate) -> (Died, Option<Instant>) {
        let entered = tokio::select! {
            biased;
            died = death(&mut self.deaths, gate.generation) => Err(died),
            () = self.strays.enter(gate) => Ok(()),
        };
        if let Err(died) = entered {
            return (died, None);
        }
        let opened = Instant::now();
        self.gate.send_replace(Some(gate.clone()));
        self.say(|health| health.open = true);
        tracing::info!(generation = gate.generation, "the pipeline is open");
        (death(&mut self.deaths, gate.generation).await, Some(opened))
    }

    fn say(&self, change: impl FnOnce(&mut Health)) {
        self.health.send_modify(change);
    }
}

/// The next death in this generation; late news of older ones are skipped.
async fn death(deaths: &mut mpsc::Receiver<Died>, generation: u64) -> Died {
    loop {
        match deaths.recv().await {
            Some(died) if died.generation == generation => return died,
            Some(_) => {}
            // Cannot happen: `Work` holds a sender. Waiting is the harmless answer.
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

impl Strays {
    /// Takes home's chunks over after a death; gives the number of those rejected as poison.
    fn sort(&mut self, died: Died) -> u64 {
        let mut poisoned = 0;
        for mut stray in self.home.empty() {
            if stray.in_hand != Some(died.stage.name()) {
                self.innocents.push_back(stray);
                continue;
            }
            stray.attempts += 1;
            if stray.attempts < ATTEMPTS {
                self.suspects.push_back(stray);
                continue;
            }
            poisoned += 1;
            tracing::error!(stage = died.stage.name(), cpe_id = %stray.origin.cpe_id, "rejected as poison");
            let message =
                format!("the {} stage died {ATTEMPTS} times with this chunk in hand", died.stage.name());
            let rejection = Rejection::new(Cause::Poison, message);
            self.letters.file(Letter::of_stray(died.stage, stray, rejection));
        }
        poisoned
    }

    /// Suspects one by one, each with nobody else inside; then the others. Cancelled by a death, it loses nobody:
    /// who is not inside is still in a queue, or at home.
    async fn enter(&mut self, gate: &Gate) {
        while let Some(suspect) = self.suspects.pop_front() {
            drop(gate.admit(Trip::again(suspect, self.home.clone())).await);
            gate.all_home().await;
        }
        while let Some(stray) = self.innocents.pop_front() {
            drop(gate.admit(Trip::again(stray, self.home.clone())).await);
        }
    }
}
