//! Where a round is played: its folder, its database, what stands between the two, and its language model.

use crate::cluster::postmaster;
use crate::disk::SmallDisk;
use crate::fault::{Fault, Strike};
use crate::payload::{Piece, dice};
use crate::postgres::DataFolder;
use crate::proxy::Proxy;
use crate::round_state::RoundState;
use crate::service::ServiceSettings;
use crate::test_service::TestService;
use lnsp_ingest::simulated_llm::{Options, SimulatedLlm};
use lnsp_ingest::stages::Stage;
use lnsp_ingest::store::managed::ManagedPostgres;
use rand::RngExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// What one round runs in. Fields are dropped in the order of their declaration.
pub struct Scene {
    /// The state that the tasks of the round share.
    pub state: Arc<RoundState>,
    /// Runs the service and restarts it.
    pub service: Arc<TestService>,
    /// Between the service and a database that is not its own.
    pub proxy: Option<Proxy>,
    /// What the service asks for codes.
    pub llm: Option<SimulatedLlm>,
    /// Where the folder of PostgreSQL is.
    pub data: PathBuf,
    _postgres: Option<ManagedPostgres>,
    // Whatever server is left in it is stopped before its disk goes.
    _folder: DataFolder,
    /// Under the data folder.
    pub disk: Option<SmallDisk>,
}

impl Scene {
    /// What these strikes need. `None`: this machine does not let us.
    pub async fn set(state: Arc<RoundState>, strikes: &[Strike], chunks: u32) -> Option<Scene> {
        let has = |fault| strikes.iter().any(|strike| strike.fault == fault);
        let folder = DataFolder::new();
        let disk = if has(Fault::FullDisk) { Some(SmallDisk::mount(folder.path())?) } else { None };
        folder.take_cluster();
        if strikes.iter().any(|strike| strike.fault.crashes_the_database()) {
            flush(folder.path());
        }
        let data = folder.path().to_owned();
        let mut settings = ServiceSettings {
            data: data.clone(),
            panics: panics(&state, strikes, chunks),
            ..ServiceSettings::default()
        };
        if has(Fault::Poison) {
            let (stage, pieces) = poison(&state, chunks);
            settings.poison = pieces.iter().map(|piece| (stage.to_owned(), piece.id())).collect();
            state.poison(pieces);
        }
        let (mut proxy, mut postgres) = (None, None);
        if has(Fault::CutCommit) {
            postgres = Some(ManagedPostgres::start(&data).unwrap());
            let between = Proxy::start(postmaster(&data).unwrap().socket).await;
            settings.database = Some(between.dsn());
            settings.data = data.join("service");
            proxy = Some(between);
        }
        let llm = has(Fault::HangLlm).then(|| SimulatedLlm::start(quick_llm(state.seed)).unwrap());
        settings.llm = llm.as_ref().map(|llm| llm.url().to_owned());
        let may_give_up = strikes.iter().any(|strike| strike.fault.takes_the_database());
        let service = TestService::new(state.clone(), settings, data.clone(), may_give_up);
        Some(Scene { state, service, proxy, llm, data, _postgres: postgres, _folder: folder, disk })
    }
}

/// A server that was killed flushes each file of its folder before anything else: what the copy has left to be flushed
/// is not to be part of that.
fn flush(folder: &Path) {
    let flushed = Command::new("find").arg(folder).args(["-type", "f", "-exec", "sync", "{}", "+"]).status();
    assert!(flushed.unwrap().success());
}

fn quick_llm(seed: u64) -> Options {
    Options { latency: "4ms".parse().unwrap(), seed, ..Options::default() }
}

/// The stages that die, each with the number of the chunk at which it panics.
fn panics(state: &RoundState, strikes: &[Strike], chunks: u32) -> Vec<(String, u64)> {
    let stages = strikes.iter().filter_map(|strike| Some((strike.number, strike.fault.panics()?)));
    let deaths = stages.flat_map(|(number, stage)| {
        let mut dice = dice(state.seed, stage, number);
        let times = dice.random_range(1..4);
        (0..times)
            .map(move |_| (stage.to_owned(), dice.random_range(0..u64::from(chunks) * 6 / 10)))
            .collect::<Vec<_>>()
    });
    deaths.collect()
}

/// The stage that dies, and the pieces it dies with.
fn poison(state: &RoundState, chunks: u32) -> (&'static str, Vec<Piece>) {
    let mut dice = dice(state.seed, "poison", 0);
    let stage = Stage::ALL[dice.random_range(0..Stage::ALL.len())].name();
    let numbers = (0..dice.random_range(2..5)).map(|_| dice.random_range(0..chunks * 6 / 10));
    (stage, numbers.map(Piece::new).filter(|piece| piece.has_id()).collect())
}
