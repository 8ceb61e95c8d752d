//! What the supervisor does when a stage dies: everybody is answered, the guilty one is found, nobody else suffers.

use crate::support::test_service::{Poison, Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
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
    let inspect = Arc::new(Poison { stage, text: POISON });
    let overrides = Overrides { inspect, encoder: Some(Scripted::factory()), ..overrides() };
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
async fn poison_in_the_hands_of_the_extractor() {
    poison_among_a_thousand(Stage::Tmd).await;
}

#[actix_web::test]
async fn poison_in_the_hands_of_the_embedder() {
    poison_among_a_thousand(Stage::Embed).await;
}

#[actix_web::test]
async fn poison_in_the_hands_of_the_writer() {
    poison_among_a_thousand(Stage::Write).await;
}

/// Panics on every hundredth chunk, once.
struct Hiccups(AtomicUsize);

impl FaultHook for Hiccups {
    fn in_work_at(&self, _: Stage, _: &Chunk) {
        let seen = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(seen % 600 != 599 || seen > 6000, "hiccup {seen}");
    }
}

#[actix_web::test]
async fn stages_that_die_again_and_again_lose_and_double_nobody() {
    let overrides = Overrides {
        inspect: Arc::new(Hiccups(AtomicUsize::new(0))),
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

/// Breaks on one text, and takes its whole pass with it.
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
    let inspect = Arc::new(Poison { stage: Stage::Tmd, text: POISON });
    let overrides = Overrides { inspect, encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..50)));
    until("all are inside the writer", || service.state.pipeline.entrance().inside() == Some([0, 0, 0, 50]))
        .await;
    let poison = format!("{{\"id\":\"poison\",\"text\":\"{POISON}\"}}\n");
    let poison = actix_web::rt::spawn(stream_to(service.url.clone(), poison));
    until("the extractor has died", || service.state.pipeline.health().healing.is_some()).await;
    assert_eq!(service.state.pipeline.health().generation, 1, "nobody is sent again whose fate is open");
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (50, 0, 0));
    assert_eq!(tally(&poison.await.unwrap()), (0, 0, 1));
    service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
    assert_eq!(service.stored().await, 50);
    service.stop().await;
}

/// Kills the extractor when it sees the guilty one, and again when of those who come back from home the tenth enters.
/// Each of them only once.
#[derive(Default)]
struct TwoDeaths {
    seen: Mutex<HashMap<String, usize>>,
    returned: AtomicUsize,
}

impl FaultHook for TwoDeaths {
    fn in_work_at(&self, stage: Stage, chunk: &Chunk) {
        if stage != Stage::Tmd {
            return;
        }
        let visits = {
            let mut seen = self.seen.lock().unwrap();
            let visits = seen.entry(chunk.text.clone()).or_default();
            *visits += 1;
            *visits
        };
        assert!(!(visits == 1 && chunk.text == POISON), "the guilty one");
        if visits == 2 && chunk.text != POISON {
            assert!(self.returned.fetch_add(1, Ordering::SeqCst) != 9, "the tenth to come back");
        }
    }
}

#[actix_web::test]
async fn a_death_while_the_strays_come_back_in_loses_and_doubles_nobody() {
    let inspect = Arc::new(TwoDeaths::default());
    let mut overrides =
        Overrides { inspect: inspect.clone(), encoder: Some(Scripted::factory()), ..overrides() };
    overrides.pipeline.write = Capacity { items: 20, bytes: 1 << 30 };
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..100)));
    let inside = || service.state.pipeline.entrance().inside();
    until("the writer is full, the others stand before it", || inside() == Some([0, 0, 80, 20])).await;
    let guilty = format!("{{\"id\":\"guilty\",\"text\":\"{POISON}\"}}\n");
    let guilty = actix_web::rt::spawn(stream_to(service.url.clone(), guilty));
    until("the extractor has died", || service.state.pipeline.health().healing.is_some()).await;
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (100, 0, 0));
    assert_eq!(tally(&guilty.await.unwrap()), (1, 0, 0));
    assert_eq!(service.stored().await, 101);
    assert!(inspect.returned.load(Ordering::SeqCst) > 9, "some had to come back");
    let [extractor, ..] = service.state.pipeline.health().deaths;
    assert_eq!((extractor.count, extractor.suspects, extractor.poisoned), (2, 2, 0), "one in hand each time");
    service.stop().await;
}
