//! Stalls are found: a stalled task is healed like a death, a stalled thread ends the process with a message, and a
//! wait is not taken for a stall.

use crate::support::database::Database;
use crate::support::process::Service;
use crate::support::test_service::{
    Poison, Scripted, TestService, client, numbered, overrides, stream_to, tally,
};
use crate::support::wait::until;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lnsp_ingest::app::{EncoderFactory, Overrides};
use lnsp_ingest::chunk::Chunk;
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokens};
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::pipeline::FatalHandler;
use lnsp_ingest::stages::{FaultHook, Stage};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const POISON: &str = "This one stops the clock.";

/// Shorter than a test waits, longer than a busy machine keeps a thread from work or a disk from an answer.
const SHORT_DEADLINE: [&str; 2] = ["--hang-deadline-s", "5"];
/// By then the watchdog, which looks eight times in a deadline, has looked after it.
const OVERDUE: Duration = Duration::from_millis(7_500);

fn line(id: &str, text: &str) -> String {
    format!("{}\n", json!({"id": id, "text": text}))
}

/// Stalls with one text, in one stage.
struct Stall(Stage);

impl FaultHook for Stall {
    fn during_work(&self, stage: Stage, chunk: &Chunk) -> Option<BoxFuture<'static, ()>> {
        (stage == self.0 && chunk.text == POISON).then(|| std::future::pending().boxed())
    }
}

async fn stall_among_two_hundred(stage: Stage) {
    let said = Said::default();
    let overrides = said.overrides(Arc::new(Stall(stage)));
    let service = TestService::build(overrides, &SHORT_DEADLINE).await;
    let body = numbered(0..100) + &line("poison", POISON) + &numbered(100..200);
    let answer = service.stream(body).await;
    assert_eq!(tally(&answer), (200, 0, 1));
    let rejected = answer.iter().find(|line| line["status"] == "error").unwrap();
    assert_eq!((&rejected["line"], &rejected["error"]["code"]), (&json!(101), &json!("poison")));
    assert_eq!(service.stored().await, 200);
    service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
    let (_, health) = service.get("/health").await;
    let state = &health["pipeline"]["stages"][stage.name()];
    assert_eq!((&state["restarts"], &state["last_cause"]), (&json!(3), &json!("stalled")), "{health}");
    assert_eq!((&state["poisoned"], &health["pipeline"]["generation"]), (&json!(1), &json!(4)));
    assert_eq!(state["oldest_work_s"], Value::Null);
    assert_eq!(said.sentences(), Vec::<String>::new());
    service.stop().await;
}

#[actix_web::test]
async fn a_stalled_task_of_the_extractor_is_healed() {
    stall_among_two_hundred(Stage::Tmd).await;
}

#[actix_web::test]
async fn a_stalled_task_of_the_embedder_is_healed() {
    stall_among_two_hundred(Stage::Embed).await;
}

#[actix_web::test]
async fn a_stalled_task_of_the_writer_is_healed() {
    stall_among_two_hundred(Stage::Write).await;
}

#[actix_web::test]
async fn waiting_for_the_database_is_not_hanging() {
    let said = Said::default();
    let overrides = said.overrides(Arc::new(lnsp_ingest::stages::NoFaults));
    let service = TestService::build(overrides, &SHORT_DEADLINE).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..300)));
    until("the writer has waited for longer than the deadline", || {
        let [_, _, write] = service.state.pipeline.oldest_work();
        write.is_some_and(|oldest| oldest.age > OVERDUE && oldest.waits_for == Some("PostgreSQL"))
    })
    .await;
    let (_, health) = service.get("/health").await;
    assert_eq!(health["pipeline"]["stages"]["write"]["waits_for"], "PostgreSQL");
    let oldest = health["pipeline"]["stages"]["write"]["oldest_work_s"].as_f64().unwrap();
    assert!(oldest > OVERDUE.as_secs_f64(), "{health}");
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (300, 0, 0));
    assert_eq!((service.state.pipeline.health().generation, said.sentences()), (1, Vec::new()));
    service.stop().await;
}

/// A model that fails on every text.
struct Refusing(Scripted);

impl Encoder for Refusing {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        let refused = || EncodeError::Tokenize { reason: "on purpose".to_owned() };
        Ok(texts.iter().map(|_| Err(refused())).collect())
    }
}

#[actix_web::test]
async fn neither_a_chunk_that_waits_for_its_dead_letter_nor_the_supervisor_that_waits_for_it_is_stalled() {
    let said = Said::default();
    let factory: EncoderFactory = Arc::new(|| Box::new(Refusing(Scripted::new())));
    let poison = Poison { stage: Stage::Tmd, text: POISON };
    let overrides = Overrides { encoder: Some(factory), ..said.overrides(Arc::new(poison)) };
    let service = TestService::build(overrides, &SHORT_DEADLINE).await;
    let held = service.database.hold("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE").await;
    let refused = actix_web::rt::spawn(stream_to(service.url.clone(), line("a", "A text.")));
    let waits =
        || service.state.pipeline.oldest_work()[1].filter(|oldest| oldest.waits_for == Some("PostgreSQL"));
    until("the letter waits", || waits().is_some()).await;
    let poison = actix_web::rt::spawn(stream_to(service.url.clone(), line("poison", POISON)));
    until("the extractor has died", || service.state.pipeline.health().healing.is_some()).await;
    let before = waits().unwrap().age;
    until("more than a deadline has passed", || waits().unwrap().age > before + OVERDUE).await;
    assert_eq!((service.state.pipeline.health().generation, said.sentences()), (1, Vec::new()));
    held.release().await;
    for (upload, code) in [(refused, "embed_failed"), (poison, "poison")] {
        let answer = upload.await.unwrap();
        assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!(code)));
    }
    service.stop().await;
}

/// The messages of the fatal handler, which does not end this process.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn overrides(&self, fault_hook: Arc<dyn FaultHook>) -> Overrides {
        let said = self.0.clone();
        let mut overrides = Overrides { fault_hook, encoder: Some(Scripted::factory()), ..overrides() };
        overrides.pipeline.watch.fatal_handler =
            FatalHandler::new(move |sentence| said.lock().unwrap().push(sentence.to_owned()));
        overrides
    }

    fn sentences(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for the one message, which must contain these words.
    async fn must_say(&self, words: &str) {
        until("the watchdog gives up", || !self.sentences().is_empty()).await;
        let sentences = self.sentences();
        assert!(sentences.len() == 1 && sentences[0].contains(words), "{sentences:?}");
        assert!(sentences[0].contains("start it again"), "{sentences:?}");
    }
}

/// Blocks the first caller until it is released.
struct Trap {
    armed: AtomicBool,
    open: Mutex<mpsc::Receiver<()>>,
}

impl Trap {
    fn new() -> (Arc<Trap>, mpsc::Sender<()>) {
        let (release, open) = mpsc::channel();
        (Arc::new(Trap { armed: AtomicBool::new(true), open: Mutex::new(open) }), release)
    }

    fn step_on(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            // It opens when the other end is dropped, also by a test that fails.
            self.open.lock().unwrap().recv().unwrap_err();
        }
    }
}

/// A model that hangs in its first forward pass.
struct Hanging(Scripted, Arc<Trap>);

impl Encoder for Hanging {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        self.1.step_on();
        self.0.encode(texts)
    }
}

#[actix_web::test]
async fn a_thread_of_the_model_that_hangs_is_named_and_cannot_be_healed() {
    let (trap, release) = Trap::new();
    let factory: EncoderFactory = Arc::new(move || Box::new(Hanging(Scripted::new(), trap.clone())));
    let said = Said::default();
    let overrides =
        Overrides { encoder: Some(factory), ..said.overrides(Arc::new(lnsp_ingest::stages::NoFaults)) };
    let service = TestService::build(overrides, &SHORT_DEADLINE).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..10)));
    until("the pass shows in the health", || {
        service.state.pipeline.threads_at_work().iter().any(|(who, ..)| who.contains("lnsp-model"))
    })
    .await;
    said.must_say("lnsp-model").await;
    assert!(said.sentences()[0].contains("hangs: it has been at one bulk job for"), "{:?}", said.sentences());
    assert_eq!(service.state.pipeline.health().generation, 1, "no stage is restarted for it");
    drop(release);
    assert_eq!(tally(&upload.await.unwrap()), (10, 0, 0));
    service.stop().await;
}

/// Steps on a trap inside the handler of a stage.
struct TrapInHandler(Arc<Trap>);

impl FaultHook for TrapInHandler {
    fn on_begin(&self, _: Stage, _: &Chunk) {
        self.0.step_on();
    }
}

#[actix_web::test]
async fn a_pipeline_thread_that_hangs_cannot_be_healed() {
    let (trap, release) = Trap::new();
    let said = Said::default();
    let service = TestService::build(said.overrides(Arc::new(TrapInHandler(trap))), &SHORT_DEADLINE).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..10)));
    said.must_say("the pipeline's thread hangs").await;
    drop(release);
    assert_eq!(tally(&upload.await.unwrap()), (10, 0, 0));
    service.stop().await;
}

/// Ends the thread of the stages.
struct EndOfThread;

impl FaultHook for EndOfThread {
    fn on_begin(&self, _: Stage, _: &Chunk) {
        actix::Arbiter::current().stop();
    }
}

#[actix_web::test]
async fn a_pipeline_thread_that_has_ended_cannot_be_healed() {
    let said = Said::default();
    let service = TestService::build(said.overrides(Arc::new(EndOfThread)), &[]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..10)));
    said.must_say("has ended").await;
    upload.abort();
    service.abandon().await;
}

/// Kills the first generation, and the supervisor before it builds the second.
struct DeadSupervisor;

impl FaultHook for DeadSupervisor {
    fn on_begin(&self, _: Stage, _: &Chunk) {
        panic!("the stage dies");
    }

    fn before_generation(&self, number: u64) {
        assert!(number < 2, "the supervisor dies");
    }
}

#[actix_web::test]
async fn a_supervisor_that_dies_cannot_be_healed() {
    let said = Said::default();
    let service = TestService::build(said.overrides(Arc::new(DeadSupervisor)), &[]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..1)));
    said.must_say("the supervisor has ended").await;
    assert_eq!(service.get("/ready").await.0, 503);
    upload.abort();
    service.abandon().await;
}

/// Poison in one stage, and a trap before the second generation is built.
struct SlowHealing(Poison, Arc<Trap>);

impl FaultHook for SlowHealing {
    fn on_begin(&self, stage: Stage, chunk: &Chunk) {
        self.0.on_begin(stage, chunk);
    }

    fn before_generation(&self, number: u64) {
        if number == 2 {
            self.1.step_on();
        }
    }
}

#[actix_web::test]
async fn while_a_stage_is_healed_the_service_is_not_ready_and_says_why() {
    let (trap, release) = Trap::new();
    let said = Said::default();
    let poison = Poison { stage: Stage::Embed, text: POISON };
    let service = TestService::build(said.overrides(Arc::new(SlowHealing(poison, trap))), &[]).await;
    assert_eq!(service.get("/ready").await, (200, json!({"ready": true, "reasons": [], "warnings": []})));
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), line("poison", POISON)));
    until("the stage is being healed", || service.state.pipeline.health().healing.is_some()).await;
    let reasons = json!(["the pipeline is healing: the embed stage died (panic)"]);
    let (status, ready) = service.get("/ready").await;
    assert_eq!((status, &ready["ready"], &ready["reasons"]), (503, &json!(false), &reasons));
    drop(release);
    assert_eq!(tally(&upload.await.unwrap()), (0, 0, 1));
    until("it is open again", || service.state.pipeline.health().open).await;
    assert_eq!(service.get("/ready").await.0, 200);
    let metrics = client().get(format!("{}/metrics", service.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for name in ["lnsp_suspects_total", "lnsp_poisoned_total", "lnsp_stage_oldest_work_seconds"] {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no words");
        assert!(metrics.contains(&format!("{name}{{stage=\"embed\"}}")), "{name}");
    }
    service.stop().await;
}

/// Takes LMDB's lock for writers, like a process that hangs in a transaction. It ends with this process.
#[allow(unsafe_code)]
fn hold_the_writers_lock(folder: &std::path::Path) -> heed::RwTxn<'static> {
    let mut options = heed::EnvOpenOptions::new();
    options.map_size(64 << 30).max_readers(1024).max_dbs(2);
    // SAFETY: the settings are those of the service, and nothing is read or written here.
    let environment = Box::leak(Box::new(unsafe { options.open(folder) }.unwrap()));
    environment.write_txn().unwrap()
}

#[actix_web::test]
async fn a_process_whose_index_thread_hangs_in_lmdb_says_so_and_exits() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    // So long that a forward pass on a busy machine does not look like a hang.
    let service = Service::start(data.path(), &["--database-url", database.dsn(), "--hang-deadline-s", "10"]);
    let current = std::fs::read_to_string(data.path().join("index/CURRENT")).unwrap();
    let transaction = hold_the_writers_lock(&data.path().join("index").join(current.trim()));
    assert_eq!(tally(&stream_to(service.url.clone(), numbered(0..20)).await), (20, 0, 0));
    // The index builds after a while without changes, and then waits for a lock that is not released.
    let (status, complaints) = service.end();
    assert_eq!(status.code(), Some(70), "{complaints}");
    let last = complaints.lines().find(|line| line.starts_with("lnsp: ")).unwrap();
    assert!(last.contains("the thread lnsp-index hangs: it has been building the index for"), "{last}");
    drop(transaction);

    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    assert!(service.log.contains("Index open: 20 vectors"), "nothing acknowledged is lost: {}", service.log);
    service.kill();
}

#[actix_web::test]
async fn a_process_that_was_suspended_for_longer_than_the_deadline_goes_on() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    // So long that a busy machine does not look like a hang, and shorter than the suspension.
    let service = Service::start(data.path(), &["--database-url", database.dsn(), "--hang-deadline-s", "5"]);
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..2000)));
    let health = format!("{}/health", service.url);
    let busy = async || -> Value { client().get(&health).send().await.unwrap().json().await.unwrap() };
    while busy().await["pipeline"]["threads_at_work"] == json!([]) {}
    // In the middle of a forward pass.
    service.suspend(Duration::from_secs(7)).await;
    assert_eq!(tally(&upload.await.unwrap()), (2000, 0, 0));
    let health = busy().await;
    assert_eq!((&health["status"], &health["pipeline"]["generation"]), (&json!("healthy"), &json!(1)));
    let metrics = client().get(format!("{}/metrics", service.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let suspended =
        metrics.lines().find_map(|line| line.strip_prefix("lnsp_process_suspended_seconds_total "));
    assert!(suspended.unwrap().parse::<f64>().unwrap() > 5.0, "{suspended:?}");
    assert!(service.terminate().success());
}
