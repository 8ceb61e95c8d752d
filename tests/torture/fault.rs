//! The faults, and what it takes to strike with each. A fault counts where it really struck: with somebody waiting for
//! an answer, and with the victim alive.

use crate::cluster::postmaster;
use crate::house::House;
use crate::payload::dice;
use crate::world::World;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;

/// All of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the service.
    KillService,
    /// `kill -9` of PostgreSQL's first process.
    KillPostgres,
    /// Both at once.
    KillBoth,
    /// PostgreSQL's immediate shutdown.
    QuitPostgres,
}

impl Fault {
    /// In the order of the rounds.
    pub const ALL: [Fault; 4] =
        [Fault::KillService, Fault::KillPostgres, Fault::KillBoth, Fault::QuitPostgres];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillService => "kill-service",
            Fault::KillPostgres => "kill-postgres",
            Fault::KillBoth => "kill-both",
            Fault::QuitPostgres => "quit-postgres",
        }
    }

    /// The service may end by itself, or not start at once.
    pub fn takes_the_database(self) -> bool {
        matches!(self, Fault::KillPostgres | Fault::KillBoth | Fault::QuitPostgres)
    }
}

/// A fault at its moment.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// Which one.
    pub fault: Fault,
    /// When so many chunks are acknowledged.
    pub after: u64,
    /// Of its own chances.
    pub number: u64,
}

impl Strike {
    /// Waits for its moment and strikes.
    pub async fn strike(self, world: &World, house: &House) {
        let mut dice = dice(world.seed, self.fault.name(), self.number);
        drop(world.acknowledged.subscribe().wait_for(|acknowledged| *acknowledged >= self.after).await);
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..60))).await;
        if self.hit(world, house, &mut dice).await {
            world.struck(self.fault.name());
        }
    }

    async fn hit(self, world: &World, house: &House, _: &mut StdRng) -> bool {
        let busy = world.is_busy();
        match self.fault {
            Fault::KillService => house.kill().await && busy,
            Fault::KillPostgres => {
                postmaster(&house.data).is_some_and(|it| it.signal(Signal::SIGKILL)) && busy
            }
            Fault::QuitPostgres => {
                postmaster(&house.data).is_some_and(|it| it.signal(Signal::SIGQUIT)) && busy
            }
            Fault::KillBoth => {
                let postgres = postmaster(&house.data).is_some_and(|it| it.signal(Signal::SIGKILL));
                house.kill().await && postgres && busy
            }
        }
    }
}
