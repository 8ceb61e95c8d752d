//! The faults, and what it takes to strike with each. A fault counts where it really struck: with a client waiting for
//! an answer, and with the victim alive.

use crate::attack;
use crate::cluster::postmaster;
use crate::hostile;
use crate::payload::dice;
use crate::scene::Scene;
use lnsp_ingest::simulated_llm;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;
use tokio::time::sleep;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the service.
    KillService,
    /// `kill -9` of PostgreSQL's first process.
    KillPostgres,
    /// `kill -9` of the service and of PostgreSQL's first process at once.
    KillBoth,
    /// SIGTERM of the service under load.
    Drain,
    /// PostgreSQL's immediate shutdown.
    QuitPostgres,
    /// The service's connections are ended by the server, again and again.
    TerminateBackends,
    /// The service is suspended (SIGSTOP), and resumed.
    StopService,
    /// All of PostgreSQL's processes are suspended (SIGSTOP), and resumed.
    StopPostgres,
    /// The connection is cut right behind a COMMIT.
    CutCommit,
    /// The extractor panics.
    PanicTmd,
    /// The embedder panics.
    PanicEmbed,
    /// The writer panics.
    PanicWrite,
    /// A few chunks with which a stage panics each time.
    Poison,
    /// The language model does not answer.
    HangLlm,
    /// No space is left where the database and the index are.
    FullDisk,
    /// Clients go in the middle of a line.
    Disconnect,
    /// Clients that send a byte now and then.
    SlowLoris,
    /// A client that does not read.
    DeafClient,
    /// Clients that attack everything but the flow of chunks.
    Hostile,
}

impl Fault {
    /// In the order of the rounds.
    pub const ALL: [Fault; 19] = [
        Fault::KillService,
        Fault::CutCommit,
        Fault::KillPostgres,
        Fault::PanicWrite,
        Fault::KillBoth,
        Fault::Drain,
        Fault::TerminateBackends,
        Fault::StopPostgres,
        Fault::PanicTmd,
        Fault::FullDisk,
        Fault::QuitPostgres,
        Fault::HangLlm,
        Fault::Disconnect,
        Fault::Poison,
        Fault::PanicEmbed,
        Fault::StopService,
        Fault::DeafClient,
        Fault::SlowLoris,
        Fault::Hostile,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillService => "kill-service",
            Fault::KillPostgres => "kill-postgres",
            Fault::KillBoth => "kill-both",
            Fault::Drain => "drain",
            Fault::QuitPostgres => "quit-postgres",
            Fault::TerminateBackends => "terminate-backends",
            Fault::StopService => "stop-service",
            Fault::StopPostgres => "stop-postgres",
            Fault::CutCommit => "cut-commit",
            Fault::PanicTmd => "panic-tmd",
            Fault::PanicEmbed => "panic-embed",
            Fault::PanicWrite => "panic-write",
            Fault::Poison => "poison",
            Fault::HangLlm => "hang-llm",
            Fault::FullDisk => "full-disk",
            Fault::Disconnect => "disconnect",
            Fault::SlowLoris => "slow-loris",
            Fault::DeafClient => "deaf-client",
            Fault::Hostile => "hostile",
        }
    }

    /// A service that starts meanwhile may give up, and is started again.
    pub fn takes_the_database(self) -> bool {
        use Fault::{
            CutCommit, FullDisk, KillBoth, KillPostgres, QuitPostgres, StopPostgres, TerminateBackends,
        };
        matches!(
            self,
            CutCommit | KillPostgres | KillBoth | QuitPostgres | StopPostgres | FullDisk | TerminateBackends
        )
    }

    /// The next server has to recover.
    pub fn crashes_the_database(self) -> bool {
        matches!(self, Fault::KillPostgres | Fault::KillBoth | Fault::QuitPostgres)
    }

    /// The stage that dies.
    pub fn panics(self) -> Option<&'static str> {
        self.name().strip_prefix("panic-")
    }

    /// It needs a scene of its own, so it is no second fault.
    pub fn needs_its_scene(self) -> bool {
        matches!(self, Fault::CutCommit | Fault::FullDisk)
    }
}

/// A fault at its moment.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// The kind of fault.
    pub fault: Fault,
    /// When so many chunks are acknowledged.
    pub after: u64,
    /// Of its own chances.
    pub number: u64,
}

impl Strike {
    /// Waits for its moment and strikes.
    pub async fn strike(self, scene: &Scene) {
        if self.fault.panics().is_some() || self.fault == Fault::Poison {
            // The service does that itself, and says so, or its answer does.
            return;
        }
        let state = &scene.state;
        let mut dice = dice(state.seed, self.fault.name(), self.number);
        let mut acknowledged = state.acknowledged.subscribe();
        tokio::select! {
            _ = acknowledged.wait_for(|acknowledged| *acknowledged >= self.after) => {}
            () = state.over() => return,
        }
        sleep(Duration::from_millis(dice.random_range(0..60))).await;
        state.strikes();
        let times = self.hit(scene, &mut dice).await;
        let calm = state.calm();
        state.struck(self.fault.name(), times);
        acknowledged.mark_unchanged();
        tokio::select! {
            _ = acknowledged.changed() => state.back_after(self.fault.name(), calm.elapsed()),
            () = state.over() => {}
        }
    }

    /// How often it struck.
    async fn hit(self, scene: &Scene, dice: &mut StdRng) -> u64 {
        let busy = scene.state.is_busy();
        let at_postgres = |signal| postmaster(&scene.data).is_some_and(|server| server.signal(signal));
        let alive = match self.fault {
            Fault::KillService => {
                let alive = scene.service.kill().await;
                // Now and then also while it starts.
                for _ in 0..dice.random_range(0..3) {
                    sleep(Duration::from_millis(dice.random_range(0..800))).await;
                    scene.service.kill().await;
                }
                alive
            }
            Fault::KillPostgres => at_postgres(Signal::SIGKILL),
            Fault::QuitPostgres => at_postgres(Signal::SIGQUIT),
            Fault::KillBoth => {
                let postgres = at_postgres(Signal::SIGKILL);
                scene.service.kill().await && postgres
            }
            Fault::Drain => scene.service.drain().await,
            Fault::TerminateBackends => return terminate_backends(scene, dice).await,
            Fault::StopService => {
                let there = scene.service.signal(Signal::SIGSTOP);
                sleep(some_seconds(dice)).await;
                scene.service.signal(Signal::SIGCONT) && there
            }
            Fault::StopPostgres => {
                let Some(server) = postmaster(&scene.data) else { return 0 };
                let stopped = server.signal_all(Signal::SIGSTOP);
                sleep(some_seconds(dice)).await;
                server.signal_all(Signal::SIGCONT);
                stopped > 1
            }
            Fault::CutCommit => return cut_commits(scene, dice).await,
            Fault::HangLlm => return hang_llm(scene, dice).await,
            Fault::FullDisk => match &scene.disk {
                Some(disk) => disk.fill_for_a_while(&scene.service.log(), dice).await,
                None => false,
            },
            Fault::Disconnect => return hostile::disconnect(&scene.state, dice).await,
            Fault::SlowLoris => return hostile::slow_loris(&scene.state, dice).await,
            Fault::DeafClient => return hostile::deaf_client(&scene.state, dice).await,
            Fault::Hostile => {
                return attack::attack_all(&scene.state, || scene.service.memory(), dice).await;
            }
            Fault::PanicTmd | Fault::PanicEmbed | Fault::PanicWrite | Fault::Poison => false,
        };
        u64::from(alive && busy)
    }
}

/// Mostly short; now and then longer than a connection may be looked at in vain.
fn some_seconds(dice: &mut StdRng) -> Duration {
    Duration::from_millis(if dice.random_bool(0.15) {
        dice.random_range(6_000..9_000)
    } else {
        dice.random_range(300..2_500)
    })
}

async fn terminate_backends(scene: &Scene, dice: &mut StdRng) -> u64 {
    let mut struck = 0;
    for _ in 0..dice.random_range(2..10) {
        let busy = scene.state.is_busy();
        if let Some(server) = postmaster(&scene.data)
            && let Ok(ended) = server.terminate_backends().await
        {
            struck += u64::from(busy && ended > 0);
        }
        sleep(Duration::from_millis(200)).await;
    }
    struck
}

async fn cut_commits(scene: &Scene, dice: &mut StdRng) -> u64 {
    let Some(proxy) = &scene.proxy else { return 0 };
    let before = proxy.cuts();
    for _ in 0..dice.random_range(1..6) {
        proxy.arm(dice.random());
        // None comes when there is nothing left to be stored.
        drop(tokio::time::timeout(Duration::from_secs(1), proxy.disarmed()).await);
        sleep(Duration::from_millis(dice.random_range(0..120))).await;
    }
    proxy.cuts() - before
}

async fn hang_llm(scene: &Scene, dice: &mut StdRng) -> u64 {
    let Some(llm) = &scene.llm else { return 0 };
    let before = llm.counts().faulty;
    llm.set_fault(Some((simulated_llm::Fault::Hang, dice.random_range(1..4))));
    sleep(Duration::from_millis(dice.random_range(500..2_500))).await;
    llm.set_fault(None);
    llm.counts().faulty - before
}
