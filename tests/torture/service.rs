//! The service as a process of its own: the whole service from start to drain, as `lnsp serve` runs it, with a scripted
//! encoder, short timeouts for clients, and panics with the chunks that its settings name. It prints its address and
//! each panic on its standard output.

use crate::payload::{Scripted, models};
use clap::Parser;
use lnsp_ingest::app::{App, Overrides};
use lnsp_ingest::chunk::Chunk;
use lnsp_ingest::cli::serve;
use lnsp_ingest::config::Config;
use lnsp_ingest::flow::Backoff;
use lnsp_ingest::http::{BodyTimeouts, Settings};
use lnsp_ingest::stages::{FaultHook, Stage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Uploads at once: fewer than the slow clients that come together, so a service that does not abort them serves no
/// other client.
const UPLOADS: &str = "10";

/// How a service is started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// Its data folder.
    pub data: PathBuf,
    /// A database that is not its own.
    pub database: Option<String>,
    /// The language model.
    pub llm: Option<String>,
    /// The name of a stage, and the number of the chunk with which it dies, counted from 0.
    pub panics: Vec<(String, u64)>,
    /// The name of a stage, and the id of a chunk with which it dies each time.
    pub poison: Vec<(String, String)>,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// The process.
pub fn run(settings: &str) -> ExitCode {
    let settings: ServiceSettings = serde_json::from_str(settings).unwrap();
    crate::follow_the_driver();
    let filter = tracing_subscriber::EnvFilter::new("warn,lnsp_ingest=info");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    actix_web::rt::System::new().block_on(serve(settings))
}

async fn serve(settings: ServiceSettings) -> ExitCode {
    let app = match App::start(config(&settings), overrides(&settings), &mut |line| eprintln!("{line}")).await
    {
        Ok(app) => app,
        Err(error) => {
            eprintln!("not started: {error}");
            return ExitCode::from(4);
        }
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended =
        serve::attend(app, listener, http_settings(), |address| println!("ready on http://{address}")).await;
    ended.unwrap_or_else(|error| {
        eprintln!("not served: {error}");
        ExitCode::from(5)
    })
}

/// What a round can wait for.
fn http_settings() -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        drain: 20 * second,
        head: second,
        keep_alive: second,
        body: BodyTimeouts { silence: second, over: second, ..BodyTimeouts::default() },
        read_timeout: second,
        linger: second,
        unacknowledged: 5 * second,
    }
}

fn config(settings: &ServiceSettings) -> Config {
    let mut flags = vec!["lnsp", "--port", "0", "--data-dir", settings.data.to_str().unwrap()];
    flags.extend(["--max-uploads", UPLOADS]);
    if let Some(database) = &settings.database {
        flags.extend(["--database-url", database]);
    }
    let model = models().join("all-minilm-l6-v2");
    flags.extend(["--embedding-model", model.to_str().unwrap()]);
    match &settings.llm {
        Some(llm) => flags.extend(["--tmd-backend", "llm", "--llm-endpoint", llm, "--llm-timeout-s", "1"]),
        None => flags.extend(["--tmd-backend", "local"]),
    }
    Flags::try_parse_from(flags).unwrap().config
}

fn overrides(settings: &ServiceSettings) -> Overrides {
    let mut overrides = Overrides {
        encoder: Some(Arc::new(|| Box::new(Scripted::new()))),
        fault_hook: Arc::new(Deaths::new(settings)),
        // Built often, so that faults meet builds.
        index: |options| {
            options.map_size = 1 << 30;
            options.trees = 5;
            options.policy.at_least = 100;
            options.policy.idle = Duration::from_millis(200);
        },
        ..Overrides::default()
    };
    overrides.pipeline.heal =
        Backoff { first: Duration::from_millis(10), ceiling: Duration::from_millis(200) };
    overrides
}

/// Panics with the chunks that the settings name.
struct Deaths {
    panics: BTreeSet<(&'static str, u64)>,
    poison: HashSet<(&'static str, String)>,
    seen: [AtomicU64; 3],
}

impl Deaths {
    fn new(settings: &ServiceSettings) -> Deaths {
        let stage = |name: &str| Stage::ALL.into_iter().find(|stage| stage.name() == name).unwrap().name();
        let poison = settings.poison.iter().map(|(name, id)| (stage(name), id.clone())).collect();
        let panics = settings.panics.iter().map(|(name, number)| (stage(name), *number)).collect();
        Deaths { panics, poison, seen: Default::default() }
    }
}

impl FaultHook for Deaths {
    fn on_begin(&self, stage: Stage, chunk: &Chunk) {
        let place = Stage::ALL.iter().position(|one| *one == stage).unwrap();
        let seen = self.seen[place].fetch_add(1, Ordering::SeqCst);
        if self.panics.contains(&(stage.name(), seen)) {
            println!("panic {}", stage.name());
            panic!("a death by its settings: {} with chunk {seen}", stage.name());
        }
        if !self.poison.is_empty() && self.poison.contains(&(stage.name(), chunk.key.id.to_string())) {
            panic!("a death of poison: {} with {}", stage.name(), chunk.key.id);
        }
    }
}
