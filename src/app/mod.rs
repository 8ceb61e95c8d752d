//! Puts the house together, in the order of what needs what: database, classifier, model, index, pipeline.
//!
//! The only place that knows every concrete type. [`App::start`] returns when chunks can be taken; [`App::stop`]
//! takes the house apart in the other order, after every accepted chunk has its answer.

mod codes;
mod embedding;
mod follower;
mod index_folders;
mod indexes;
mod model_switcher;
mod overrides;
mod repairer;
mod start_error;
mod verifier;

pub use codes::llm_settings;
pub use overrides::{EncoderFactory, Overrides};
pub use start_error::StartError;

use crate::access::AccessCounter;
use crate::backfill::{Extractor, Retagger};
use crate::chunk::LabelChoice;
use crate::classifier::LocalClassifier;
use crate::config::{Config, OnFailure, TmdBackend};
use crate::deletion::Deleter;
use crate::encoder::Comparison;
use crate::files;
use crate::flow::Backoff;
use crate::http::{
    Admission, ArrivalClock, Counts, DocumentTurns, HeldCache, IdempotencyCache, Limits, MeasuredDevice,
    ModelSwitch, ServiceInfo, State,
};
use crate::index::{IndexError, Indexes};
use crate::metrics;
use crate::pipeline::{Pipeline, PipelineSettings, Tools, WRITE_BATCH_ROWS};
use crate::router::LaneServers;
use crate::search::{RecallSample, Searcher};
use crate::stages::{Labeller, Tagger, WriteTools};
use crate::store::managed::ManagedPostgres;
use crate::store::{Dsn, Store, StoreOptions, StoreTimeouts};
use crate::threads::{Lane, Worker};
use actix_web::rt::task::JoinHandle;
use actix_web::web;
use codes::{code_source, local_first};
use embedding::{CPU_QUEUE, ONE, embedding};
pub use embedding::{
    EmbeddingSetup, location, model_files, model_folders, named_model, stored_model, vectorizer_of,
};
use follower::ClockFollower;
pub use indexes::build_indexes;
use indexes::open_indexes;
use model_switcher::ModelSwitcher;
use repairer::Repairer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use verifier::Verifier;

/// How often, and after which pauses, an index is opened that the service before still holds.
const LOCKED_TRIES: u32 = 50;
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// How long an orderly stop waits for the last counts of accesses to be written.
const LAST_ACCESSES: Duration = Duration::from_secs(2);

/// The running service, without its HTTP face.
pub struct App {
    /// What the HTTP face works with.
    pub state: web::Data<State>,
    postgres: Option<ManagedPostgres>,
    /// The index follows the database, a language model is looked for, the codes of past outages are repaired, and
    /// accesses are written.
    tasks: Vec<JoinHandle<()>>,
}

impl App {
    /// Starts everything. Must run inside an actix system, whose Arbiter the pipeline gets. `report` is called
    /// with a line for each part that is ready.
    pub async fn start(
        config: Config,
        overrides: Overrides,
        report: &mut dyn FnMut(String),
    ) -> Result<App, StartError> {
        App::start_anew(config, overrides, report, Restart::default()).await
    }

    /// As [`Self::start`], with what is left of the service before.
    ///
    /// # Errors
    /// Those of [`Self::start`]; a server of our own is stopped then.
    pub async fn start_anew(
        config: Config,
        overrides: Overrides,
        report: &mut dyn FnMut(String),
        restart: Restart,
    ) -> Result<App, StartError> {
        // Before the first metric; a process that has another recorder keeps it.
        metrics::install();
        let data_dir = data_folder(&config.data_dir)?;
        let anew = restart.anew;
        let (store, postgres) =
            open_store(&config, (&data_dir, restart.postgres), overrides.store, report).await?;
        let classifier = Worker::spawn("lnsp-classifier", ONE, CPU_QUEUE, LocalClassifier::embedded)?;
        let version = classifier.run(Lane::Express, |classifier| classifier.version().to_owned()).await;
        let classifier_version = version.map_err(StartError::Worker)?;

        let codes = code_source(&config, &data_dir, report).await?;

        let stored = store.models().await?.into_iter().find(|model| model.in_use);
        let embed = embedding(&config, &data_dir, overrides.encoder, stored).await?;
        let identity = embed.identity;
        let model_id = store.adopt_model(&identity).await?;
        if let Some(location) = &embed.location {
            store.register_model(&identity, location).await?;
        }
        report(format!(
            "✅ Embedder ready: {}, {} dimensions, {}",
            identity.name, identity.dims, embed.measured
        ));

        if !embed.devices.trials.is_empty() {
            report(format!("✅ Device {}, the fastest of: {}", embed.device, embed.devices));
        }

        let mut tries = if anew { LOCKED_TRIES } else { 0 };
        let indexes: Indexes = loop {
            let sizes = (config.index.map_size(), overrides.index);
            match open_indexes(&data_dir, &store, (&identity, model_id, true), sizes) {
                // A thread of the service before may still hold them.
                Err(StartError::Index(IndexError::Locked(_))) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                opened => break opened?,
            }
        };
        let status = indexes.concepts.status();
        let questions = indexes.questions.status().items;
        let questions = if questions > 0 { format!(" and {questions} of questions") } else { String::new() };
        let (items, upto) = (status.items, status.applied_seq);
        report(format!("✅ Index open: {items} vectors{questions}, up to change {upto}"));

        metrics::build_info(&identity.name, &embed.device);
        let vectorizer = embed.vectorizer;
        let info = ServiceInfo {
            allowed_hosts: config.allowed_hosts.clone(),
            model: Arc::new(identity.clone()),
            device: embed.device,
            devices: measured_devices(&embed.devices),
            dtype: embed.dtype,
            encoders: vectorizer.concurrency(),
            pass_tokens: vectorizer.budget().tokens,
            pass_texts: vectorizer.budget().texts,
            labels: config.labels,
            tmd_backend: config.tmd_backend.to_string(),
            local_source: format!("local:{classifier_version}"),
            llm_endpoint: codes.endpoint,
            llm_required: config.tmd_on_failure == OnFailure::Reject
                && config.tmd_backend != TmdBackend::Local
                && config.labels == LabelChoice::All,
            parallel: config.enable_parallel,
            max_workers: config.max_parallel_workers,
            batch_embeddings: config.enable_batch_embeddings,
            cpesh: config.enable_cpesh,
        };
        let searcher = Searcher {
            vectorizer: vectorizer.clone(),
            classifier: classifier.clone(),
            indexes: indexes.clone(),
            store: store.clone(),
            dims: identity.dims,
            min_seq_timeout: Duration::from_secs(10),
            recall_sample: RecallSample::default(),
        };
        let write = WriteTools {
            store: store.clone(),
            model: model_id,
            indexes: indexes.clone(),
            batch_rows: WRITE_BATCH_ROWS,
            retry: Backoff { first: Duration::from_millis(50), ceiling: Duration::from_secs(2) },
        };
        let deadline = Duration::from_secs(config.chunk_deadline_s);
        let tagger = Tagger::new(classifier, codes.source, deadline)
            .asking_locally_first(local_first(&config))
            .sure_from(config.tmd_local_min_confidence);
        let lanes = LaneServers::new("localhost").map_err(StartError::Lanes)?;
        let tools = Tools {
            labeller: Labeller::new(tagger.clone(), codes.llm.clone().filter(|_| config.enable_cpesh)),
            embed: vectorizer.clone(),
            write,
            fault_hook: overrides.fault_hook,
        };
        let mut settings = PipelineSettings { one_at_a_time: !config.enable_parallel, ..overrides.pipeline };
        settings.watch.deadline = Duration::from_secs(config.hang_deadline_s);
        if codes.llm.is_some() {
            settings = settings.ask_at_once(config.llm_endpoint.total_slots(config.max_parallel_workers));
        } else if codes.router.is_some() {
            let slots = config.tmd_router_endpoint.total_slots(config.max_parallel_workers);
            settings = settings.ask_at_once(slots);
        }
        let pipeline = Arc::new(Pipeline::start(tools, settings));
        pipeline.wait_for(|health| health.open).await;
        let admission = Admission::new(Limits { uploads: config.max_uploads, ..overrides.admission });
        let idempotency = IdempotencyCache::new(overrides.memory);
        let (counts, arrivals, llm) = (Counts::default(), ArrivalClock::default(), codes.llm);
        let extractor =
            Extractor::new((store.clone(), model_id), indexes.clone(), vectorizer.clone(), llm.clone());
        let retagger = llm.clone().map(|llm| Retagger::new(store.clone(), indexes.clone(), llm));
        let llm_search = llm.clone().filter(|llm| !llm.available()).map(|llm| {
            let every = overrides.look_for_llm;
            actix_web::rt::spawn(async move { llm.look_for(every).await })
        });
        let state = State {
            retagger,
            extractor,
            pipeline,
            searcher,
            vectorizer,
            tagger,
            lanes,
            router: codes.router,
            deleter: Deleter::new(store.clone(), indexes.clone()),
            accesses: config.access_counts.then(AccessCounter::default),
            store,
            index: indexes.concepts,
            questions: indexes.questions,
            llm,
            info,
            counts,
            admission,
            idempotency,
            arrivals,
            held: HeldCache::default(),
            document_turns: DocumentTurns::default(),
            model_switch: ModelSwitch::default(),
        };
        let state = web::Data::new(state);
        let (store, indexes) = (state.store.clone(), state.indexes());
        let switch = state.model_switch.clone();
        let switcher =
            ModelSwitcher { config: config.clone(), data_dir, store: store.clone(), switch: switch.clone() };
        let fingerprint = identity.fingerprint;
        let follower = ClockFollower { store, model: model_id, fingerprint, indexes, switch };
        // A model that is there for CPESH parts only is not asked for codes.
        let repairs = config.tmd_repair && config.tmd_backend != TmdBackend::Local;
        let mut tasks = vec![actix_web::rt::spawn(follower.run()), actix_web::rt::spawn(switcher.run())];
        if config.index.index_verify_s > 0 {
            let every = Duration::from_secs(config.index.index_verify_s);
            tasks.push(actix_web::rt::spawn(Verifier { indexes: state.indexes(), every }.run()));
        }
        tasks.extend(llm_search);
        if let Some(accesses) = state.accesses.clone() {
            tasks.push(actix_web::rt::spawn(accesses.run(state.store.clone(), overrides.write_accesses)));
        }
        if let Some(retagger) = state.retagger.clone().filter(|_| repairs) {
            tasks.push(actix_web::rt::spawn(Repairer { retagger }.run()));
        }
        Ok(App { state, postgres, tasks })
    }

    /// Answers what was accepted, builds the index, stops our own PostgreSQL. Returns what went wrong on the way,
    /// in sentences; nothing acknowledged depends on it.
    pub async fn stop(self) -> Vec<String> {
        let (mut troubles, Restart { postgres, .. }) = self.stop_for_restart().await;
        if let Some(Err(error)) = postgres.map(ManagedPostgres::stop) {
            troubles.push(error.to_string());
        }
        troubles
    }

    /// As [`Self::stop`], but our own PostgreSQL goes on, for [`Self::start_anew`].
    pub async fn stop_for_restart(self) -> (Vec<String>, Restart) {
        let mut troubles = Vec::new();
        for task in self.tasks {
            task.abort();
            // Its handles of the indexes are dropped then.
            drop(task.await);
        }
        self.state.pipeline.stop().await;
        if let Err(error) = self.state.indexes().close(true).await {
            troubles.push(format!("the index will catch up at the next start: {error}"));
        }
        if let Some(accesses) = &self.state.accesses {
            // They are not worth waiting for a database that is away.
            drop(timeout(LAST_ACCESSES, accesses.flush(&self.state.store)).await);
        }
        self.state.store.close().await;
        metrics::build_info_before(&self.state.info.model.name, &self.state.info.device);
        (troubles, Restart { anew: true, postgres: self.postgres })
    }

    /// Stops our own PostgreSQL and lets everything else lie as it is: some chunks are not answered, and whatever
    /// holds them up would hold up an orderly end too. The process has to end now.
    pub fn abandon(self) -> Vec<String> {
        let App { state, postgres, tasks } = self;
        tasks.iter().for_each(JoinHandle::abort);
        std::mem::forget(state);
        let stopped = postgres.map(ManagedPostgres::stop);
        stopped.and_then(Result::err).map(|error| error.to_string()).into_iter().collect()
    }
}

/// What a service leaves to the one that takes its place in the same process.
#[derive(Debug, Default)]
pub struct Restart {
    /// There was a service before.
    anew: bool,
    postgres: Option<ManagedPostgres>,
}

/// Makes the data folder, or narrows its mode. It may be named by a link; what the link leads to must belong
/// to this account.
fn data_folder(folder: &Path) -> Result<PathBuf, StartError> {
    let mode = files::data_folder_mode();
    let make = || {
        files::make_folders(folder, mode)?;
        let folder = folder.canonicalize()?;
        files::own_folder(&folder, mode)?;
        Ok(folder)
    };
    make().map_err(|error| StartError::DataFolder { folder: folder.display().to_string(), error })
}

fn measured_devices(comparison: &Comparison) -> Vec<MeasuredDevice> {
    let each = comparison.trials.iter().map(|trial| MeasuredDevice {
        device: trial.device.to_string(),
        texts_per_s: trial.outcome.as_ref().ok().map(|rate| rate.texts_per_s),
        problem: trial.outcome.as_ref().err().map(ToString::to_string),
    });
    each.collect()
}

/// The database of the configuration, else our own in the data folder.
async fn open_store(
    config: &Config,
    (data_dir, running): (&Path, Option<ManagedPostgres>),
    timeouts: StoreTimeouts,
    report: &mut dyn FnMut(String),
) -> Result<(Store, Option<ManagedPostgres>), StartError> {
    let (dsn, postgres, whose) = match config.database() {
        Some(address) => {
            let dsn: Dsn = address.parse()?;
            let ignored = dsn.ignored_driver().map(|name| format!("; the driver {name} has no meaning here"));
            (dsn, None, format!("as configured{}", ignored.unwrap_or_default()))
        }
        None => {
            let postgres = running.map_or_else(|| ManagedPostgres::start(data_dir), Ok)?;
            let whose = format!("own server {} in {}", postgres.version(), postgres.folder().display());
            (postgres.dsn().clone(), Some(postgres), whose)
        }
    };
    let store = Store::open_with(StoreOptions { dsn, pool_size: CONNECTIONS }, timeouts).await?;
    report(format!("✅ PostgreSQL connected: {whose}"));
    report(match &postgres {
        Some(_) => format!("   SQL: lnsp psql --data-dir {}", shell_word(data_dir)),
        None => "   SQL: lnsp psql, with the same DATABASE_URL".to_owned(),
    });
    Ok((store, postgres))
}

/// A path as a word of a shell command.
fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Connections: the writer has one, the others serve look-ups, searches and the index.
pub const CONNECTIONS: usize = 8;
