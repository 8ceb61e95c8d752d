//! One round: a fresh service, clients, faults, a drain, a judgement.

use crate::client;
use crate::fault::{Fault, Strike};
use crate::house::House;
use crate::oracle::Oracle;
use crate::payload::{Piece, dice};
use crate::postgres::DataFolder;
use crate::service::Orders;
use crate::world::{Book, World};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;

/// Clients at once.
const CLIENTS: u32 = 4;
/// A round that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(150);

/// What happens in a round.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    /// The fault it is about.
    pub first: Fault,
    strikes: Vec<Strike>,
    chunks: u32,
}

impl Plan {
    /// From the seed, and the fault it has to be about.
    pub fn new(seed: u64, first: Fault) -> Plan {
        let mut dice = dice(seed, "plan", 0);
        let chunks = dice.random_range(600..1_400);
        let mut strikes = Vec::new();
        for number in 0..dice.random_range(1..=3) {
            let fault = if number == 0 { first } else { Fault::ALL[dice.random_range(0..Fault::ALL.len())] };
            let after = dice.random_range(0..u64::from(chunks) * 8 / 10);
            strikes.push(Strike { fault, after, number });
        }
        strikes.sort_by_key(|strike| strike.after);
        Plan { seed, first, strikes, chunks }
    }
}

/// Runs it.
pub async fn run(plan: &Plan) -> Book {
    let folder = DataFolder::with_cluster();
    let oracle = tempfile::tempdir().unwrap();
    let world = Arc::new(World::new(plan.seed, Oracle::start(oracle.path()).await));
    let data = folder.path().to_owned();
    let orders = Orders { data: data.clone(), ..Orders::default() };
    let may_fall = plan.strikes.iter().any(|strike| strike.fault.takes_the_database());
    let house = House::new(world.clone(), orders, data, may_fall);
    let kept = tokio::spawn(house.clone().keep());
    let played = tokio::time::timeout(LIMIT, play(plan, &world, &house)).await;
    if played.is_err() {
        world.fail(format!("the round hangs: not over after {LIMIT:?}; {}", house.last_words()));
    }
    kept.abort();
    drop(kept.await);
    world.numbers()
}

async fn play(plan: &Plan, world: &Arc<World>, house: &Arc<House>) {
    let share = plan.chunks / CLIENTS;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (world, numbers) = (world.clone(), client * share..(client + 1) * share);
            tokio::spawn(async move { client::ingest(&world, &format!("client {client}"), numbers).await })
        })
        .collect();
    for strike in &plan.strikes {
        strike.strike(world, house).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    if world.has_failed() {
        return;
    }
    // Everything is sent once more, to hear that it is known.
    let all = (0..share * CLIENTS).map(Piece::new).collect();
    client::send_all(world, "all of it", all, false).await;
    if dice(plan.seed, "end", 0).random_bool(0.5) {
        house.kill().await;
    }
    world.service().await;
    house.stop().await;
    house.judge(true).await;
}
