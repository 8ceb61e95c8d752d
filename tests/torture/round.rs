//! One round: a fresh service, clients, faults, a drain, a judgement.

use crate::client;
use crate::fault::{Fault, Strike};
use crate::judge::When;
use crate::oracle::Oracle;
use crate::payload::{Piece, dice};
use crate::postgres::DataFolder;
use crate::round_state::{RoundReport, RoundState};
use crate::scene::Scene;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Clients at once.
const CLIENTS: u32 = 4;
/// A round that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(150);

/// What happens in a round.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// What it has to be about.
    pub fault: Fault,
    strikes: Vec<Strike>,
    chunks: u32,
}

impl Plan {
    /// From the seed, and the fault it has to be about.
    pub fn new(seed: u64, first: Fault) -> Plan {
        let mut dice = dice(seed, "plan", 0);
        let chunks = dice.random_range(600..1_400);
        let seconds: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| !fault.needs_its_scene()).collect();
        let mut strikes = Vec::new();
        for number in 0..dice.random_range(1..=3) {
            let fault = if number == 0 { first } else { seconds[dice.random_range(0..seconds.len())] };
            let after = dice.random_range(0..u64::from(chunks) * 7 / 10);
            strikes.push(Strike { fault, after, number });
        }
        strikes.sort_by_key(|strike| strike.after);
        Plan { seed, fault: first, strikes, chunks }
    }
}

/// Runs it. `None`: this machine does not let us.
pub async fn run(plan: Plan) -> Option<RoundReport> {
    let oracle = DataFolder::new();
    let state = Arc::new(RoundState::new(plan.seed, Oracle::start(oracle.path()).await));
    let scene = Scene::set(state.clone(), &plan.strikes, plan.chunks).await?;
    let kept = tokio::spawn(scene.service.clone().keep());
    let played = tokio::time::timeout(LIMIT, play(&plan, &scene)).await;
    if played.is_err() {
        state.fail(format!("the round hangs: not over after {LIMIT:?}; {}", scene.service.last_words()));
    }
    kept.abort();
    if let Err(ended) = kept.await
        && ended.is_panic()
    {
        state.fail("the task that runs the service panicked; what it said is above".to_owned());
    }
    Some(state.numbers())
}

async fn play(plan: &Plan, scene: &Scene) {
    let state = &scene.state;
    let share = plan.chunks / CLIENTS;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (state, numbers) = (state.clone(), client * share..(client + 1) * share);
        clients.spawn(async move { client::ingest(&state, &format!("client {client}"), numbers).await });
    }
    let clients = async {
        clients.join_all().await;
        state.end();
    };
    let strikes = async {
        for strike in &plan.strikes {
            strike.strike(scene).await;
        }
    };
    tokio::join!(clients, strikes);
    if state.has_poison() {
        scene.service.cure().await;
    }
    // Everything is sent once more, to hear that it is known, with the pieces whose answers no client waited for.
    let mut all: Vec<Piece> = (0..share * CLIENTS).map(Piece::new).collect();
    all.extend(state.left_over());
    client::send_all(state, "all of it", all, false).await;
    if dice(plan.seed, "end", 0).random_bool(0.5) {
        scene.service.kill().await;
    }
    if state.has_failed() {
        return;
    }
    state.service().await;
    scene.service.stop().await;
    scene.service.judge(When::Over).await;
}
