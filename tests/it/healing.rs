//! What the supervisor does when a stage dies: every chunk is answered, the poisonous one is found, no other is lost.

use crate::support::test_service::{Poison, Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::chunk::Chunk;
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokens};
use lnsp_ingest::flow::Capacity;
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::stages::{FaultHook, Stage};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const POISON: &str = "This one kills.";

fn with_poison() -> String {
    numbered(0..500) + &format!("{{\"id\":\"poison\",\"text\":\"{POISON}\"}}\n") + &numbered(500..999)
}

async fn poison_among_a_thousand(stage: Stage) {
    let fault_hook = Arc::new(Poison { stage, text: POISON });
    let overrides = Overrides { fault_hook, encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &[]).await;
    let answer = service.stream(with_poison()).await;
    assert_eq!(tally(&answer), (999, 0, 1));
    let rejected = answer.iter().find(|line| line["status"] == "error").unwrap();
    assert_eq!((&rejected["line"], &rejected["error"]["code"]), (&501.into(), &"poison".into()));
    assert_eq!(service.stored().await, 999);
    // Three deaths, three healings; the answer is given before the last one is over.
    service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
    let (_, health) = service.get("/health").await;
    assert_eq!(health["pipeline"]["poisoned"], 1);
    assert_eq!(health["pipeline"]["last_death"], format!("{}: panic", stage.name()));
    assert_eq!(health["status"], "healthy");
    assert_eq!(tally(&service.stream(numbered(999..1200)).await), (201, 0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn poison_in_the_extractor() {
    poison_among_a_thousand(Stage::Tmd).await;
}

#[actix_web::test]
async fn poison_in_the_embedder() {
    poison_among_a_thousand(Stage::Embed).await;
}

#[actix_web::test]
async fn poison_in_the_writer() {
    poison_among_a_thousand(Stage::Write).await;
}

/// Panics on one text, in the first task of one stage that works on it: in the embedder, while the text is read.
struct PanicInTask(Stage);

impl FaultHook for PanicInTask {
    fn during_work(&self, stage: Stage, chunk: &Chunk) -> Option<BoxFuture<'static, ()>> {
        (stage == self.0 && chunk.text == POISON).then(|| async { panic!("on purpose") }.boxed())
    }
}

#[actix_web::test]
async fn a_panic_in_a_task_of_any_stage_is_reported_as_a_panic() {
    for stage in Stage::ALL {
        let fault_hook = Arc::new(PanicInTask(stage));
        let overrides = Overrides { fault_hook, encoder: Some(Scripted::factory()), ..overrides() };
        let service = TestService::build(overrides, &[]).await;
        assert_eq!(tally(&service.stream(with_poison()).await), (999, 0, 1));
        service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
        let deaths = service.state.pipeline.health().deaths[stage as usize];
        assert_eq!((deaths.count, deaths.last_cause, deaths.poisoned), (3, Some("panic"), 1), "{stage:?}");
        service.stop().await;
    }
}

/// Panics on every 600th of the first 6000 calls.
struct Hiccups(AtomicUsize);

impl FaultHook for Hiccups {
    fn on_begin(&self, _: Stage, _: &Chunk) {
        let seen = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(seen % 600 != 599 || seen > 6000, "hiccup {seen}");
    }
}

#[actix_web::test]
async fn stages_that_die_again_and_again_lose_and_double_no_chunk() {
    let overrides = Overrides {
        fault_hook: Arc::new(Hiccups(AtomicUsize::new(0))),
        encoder: Some(Scripted::factory()),
        ..overrides()
    };
    let service = TestService::build(overrides, &[]).await;
    let (one, two) =
        futures_util::future::join(service.stream(numbered(0..1500)), service.stream(numbered(1500..3000)))
            .await;
    assert_eq!((tally(&one), tally(&two)), ((1500, 0, 0), (1500, 0, 0)));
    assert_eq!(service.stored().await, 3000);
    assert!(service.state.pipeline.health().generation > 5);
    service.stop().await;
}

/// Panics in every forward pass with one text.
struct Breaking(Scripted, String);

impl Encoder for Breaking {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        assert!(texts.iter().all(|tokens| format!("{tokens:?}") != self.1), "broken");
        self.0.encode(texts)
    }
}

#[actix_web::test]
async fn a_text_that_breaks_the_model_fails_alone_and_no_stage_dies() {
    let files =
        lnsp_ingest::encoder::locate("all-minilm-l6-v2", &[crate::support::test_service::models()]).unwrap();
    let bad = lnsp_ingest::encoder::Tokenizer::load(&files).unwrap().tokenize(POISON).unwrap();
    let bad = format!("{bad:?}");
    let factory: lnsp_ingest::app::EncoderFactory =
        Arc::new(move || Box::new(Breaking(Scripted::new(), bad.clone())));
    let service = TestService::build(Overrides { encoder: Some(factory), ..overrides() }, &[]).await;
    let answer = service.stream(with_poison()).await;
    assert_eq!(tally(&answer), (999, 0, 1));
    let rejected = answer.iter().find(|line| line["status"] == "error").unwrap();
    assert_eq!(rejected["error"]["code"], "embed_failed");
    assert_eq!(service.state.pipeline.health().generation, 1);
    assert_eq!(service.stored().await, 999);
    service.stop().await;
}

#[actix_web::test]
async fn a_transaction_that_has_begun_is_finished_and_answered_while_its_generation_is_healed() {
    let fault_hook = Arc::new(Poison { stage: Stage::Tmd, text: POISON });
    let overrides = Overrides { fault_hook, encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..50)));
    until("all are in the writer", || service.state.pipeline.entrance().inside() == Some([0, 0, 0, 50]))
        .await;
    let poison = format!("{{\"id\":\"poison\",\"text\":\"{POISON}\"}}\n");
    let poison = actix_web::rt::spawn(stream_to(service.url.clone(), poison));
    until("the extractor has died", || service.state.pipeline.health().healing.is_some()).await;
    assert_eq!(
        service.state.pipeline.health().generation,
        1,
        "no chunk is delivered again while its transaction runs"
    );
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (50, 0, 0));
    assert_eq!(tally(&poison.await.unwrap()), (0, 0, 1));
    service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
    assert_eq!(service.stored().await, 50);
    service.stop().await;
}

/// Kills the extractor once on the first visit of the poisonous chunk, and once on the tenth redelivery.
#[derive(Default)]
struct TwoDeaths {
    seen: Mutex<HashMap<String, usize>>,
    redelivered: AtomicUsize,
}

impl FaultHook for TwoDeaths {
    fn on_begin(&self, stage: Stage, chunk: &Chunk) {
        if stage != Stage::Tmd {
            return;
        }
        let visits = {
            let mut seen = self.seen.lock().unwrap();
            let visits = seen.entry(chunk.text.clone()).or_default();
            *visits += 1;
            *visits
        };
        assert!(!(visits == 1 && chunk.text == POISON), "the first death");
        if visits == 2 && chunk.text != POISON {
            assert!(self.redelivered.fetch_add(1, Ordering::SeqCst) != 9, "the tenth redelivery");
        }
    }
}

#[actix_web::test]
async fn a_death_during_redelivery_loses_and_doubles_no_chunk() {
    let fault_hook = Arc::new(TwoDeaths::default());
    let mut overrides =
        Overrides { fault_hook: fault_hook.clone(), encoder: Some(Scripted::factory()), ..overrides() };
    overrides.pipeline.write = Capacity { items: 20, bytes: 1 << 30 };
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..100)));
    let inside = || service.state.pipeline.entrance().inside();
    until("the writer is full, the others are in the embedder", || inside() == Some([0, 0, 80, 20])).await;
    let poison = format!("{{\"id\":\"poison\",\"text\":\"{POISON}\"}}\n");
    let poison = actix_web::rt::spawn(stream_to(service.url.clone(), poison));
    until("the extractor has died", || service.state.pipeline.health().healing.is_some()).await;
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (100, 0, 0));
    assert_eq!(tally(&poison.await.unwrap()), (1, 0, 0));
    assert_eq!(service.stored().await, 101);
    assert!(fault_hook.redelivered.load(Ordering::SeqCst) > 9, "some were delivered again");
    let [extractor, ..] = service.state.pipeline.health().deaths;
    assert_eq!((extractor.count, extractor.suspects, extractor.poisoned), (2, 2, 0), "one in work each time");
    service.stop().await;
}
