//! How chunks flow: answers while the upload is open, backpressure to the socket, and one chunk at a time where that is
//! set.

use crate::support::gated_encoder::GatedEncoder;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokens};
use lnsp_ingest::flow::Capacity;
use lnsp_ingest::model::ModelIdentity;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[actix_web::test]
async fn the_first_answer_comes_while_the_upload_is_open() {
    let service = TestService::scripted().await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send("{\"id\":\"early\",\"text\":\"Answered at once.\"}\n").await;
    let seen = upload.read_until("\"status\":\"stored\"").await;
    assert!(
        seen.starts_with("HTTP/1.1 200") && seen.contains("\"line\":1") && !seen.contains("summary"),
        "{seen}"
    );
    upload.send("\n{\"id\":\"late\",\"text\":\"No end of").await;
    upload.send(" line.\"}").await;
    upload.end().await;
    let seen = upload.read_until("\"type\":\"summary\"").await;
    assert!(seen.contains("\"line\":3") && seen.contains("\"complete\":true"), "{seen}");
    assert_eq!(service.stored().await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn without_a_stream_the_summary_is_the_answer() {
    let service = TestService::scripted().await;
    let body = numbered(0..20) + "rubbish\n" + &numbered(0..5);
    let (status, answer) = service.post_as("/ingest?dataset_source=d", "application/x-ndjson", body).await;
    assert_eq!(
        (status, &answer["stored"], &answer["duplicates"], &answer["failed"]),
        (200, &json!(20), &json!(5), &json!(1))
    );
    assert_eq!(answer["errors"][0]["line"], 21);
    assert_eq!(answer["errors"][0]["code"], "invalid_json");
    assert_eq!(service.database.number("SELECT count(*) FROM chunks WHERE dataset_source = 'd'").await, 20);
    let (status, answer) = service.post_as("/ingest?colour=red", "application/x-ndjson", "").await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("unknown_field")));
    service.stop().await;
}

#[actix_web::test]
async fn known_chunks_cost_no_embedding() {
    let gate = GatedEncoder::shut();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..600)));
    // The gate is opened when texts have gathered: how many share a pass then does not depend on the machine's speed.
    let entrance = service.state.pipeline.entrance();
    until("the embedder is full", || entrance.inside() == Some([0, 600 - 512, 512, 0])).await;
    gate.open();
    assert_eq!(tally(&upload.await.unwrap()), (600, 0, 0));
    let spent = (gate.passes().len(), gate.texts());
    assert_eq!(spent.1, 600);
    assert!(spent.0 < 300, "texts share passes: {} passes for 600 texts", spent.0);
    let commits = commits(&service).await;
    assert!(commits < 300, "chunks share transactions: {commits} transactions for 600 chunks");
    assert_eq!(tally(&service.stream(numbered(0..600)).await), (0, 600, 0));
    assert_eq!((gate.passes().len(), gate.texts()), spent);
    assert_eq!(service.stored().await, 600);
    service.stop().await;
}

/// Transactions that have stored a chunk.
async fn commits(service: &TestService) -> i64 {
    service.database.number("SELECT count(DISTINCT xmin::text) FROM chunks").await
}

/// So few chunks that the embedder brings all of a pass to the writer before the writer has its turn.
#[actix_web::test]
async fn the_chunks_of_a_pass_share_a_transaction() {
    let gate = GatedEncoder::shut();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..13)));
    let entrance = service.state.pipeline.entrance();
    until("all are in the embedder", || entrance.inside() == Some([0, 0, 13, 0])).await;
    gate.open();
    assert_eq!(tally(&upload.await.unwrap()), (13, 0, 0));
    let (passes, commits) = (gate.passes().len(), commits(&service).await);
    assert!(commits <= passes as i64, "a pass is not torn apart: {commits} transactions, {passes} passes");
    service.stop().await;
}

/// While a transaction runs, chunks gather; together they are the next one.
#[actix_web::test]
async fn the_chunks_that_gather_during_a_transaction_are_the_next_one() {
    let service = TestService::scripted().await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..200)));
    let entrance = service.state.pipeline.entrance();
    until("all are in the writer", || entrance.inside() == Some([0, 0, 0, 200])).await;
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (200, 0, 0));
    assert!(commits(&service).await <= 2, "the one that was held, and all the others");
    service.stop().await;
}

/// The longer the database takes, the more rows the next transaction has, up to a limit.
#[actix_web::test]
async fn transactions_grow_with_the_wait_to_2048_rows() {
    let service = TestService::scripted().await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..3000)));
    let entrance = service.state.pipeline.entrance();
    until("all are in the writer", || entrance.inside() == Some([0, 0, 0, 3000])).await;
    held.release().await;
    assert_eq!(tally(&upload.await.unwrap()), (3000, 0, 0));
    // The one that was held has what one or two forward passes gave.
    let largest = "SELECT max(n) FROM (SELECT count(*) AS n FROM chunks GROUP BY xmin::text) AS transactions";
    assert_eq!(service.database.number(largest).await, 2048);
    assert_eq!(service.stored().await, 3000);
    service.stop().await;
}

#[actix_web::test]
async fn a_held_writer_stops_the_socket_at_an_exact_count() {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let slots = |items| Capacity { items, bytes: 1 << 30 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) =
        (slots(8), slots(16), slots(12));
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;

    let mut upload = RawConnection::upload(&service).await;
    let entrance = service.state.pipeline.entrance();
    let full = || entrance.inside() == Some([0, 8, 16, 12]);
    upload.send(&numbered(0..36)).await;
    until("every slot is taken", || full() && entrance.waiting() == 0).await;
    upload.send(&numbered(36..37)).await;
    until("one chunk waits for a slot", || full() && entrance.waiting() == 1).await;
    // While a group of an upload waits, its next lines are not read, however many arrive with one read of the socket.
    upload.send(&numbered(37..3000)).await;

    // The client gives up. What was accepted is still committed, and nothing else.
    upload.socket.get_ref().set_zero_linger().unwrap();
    drop(upload);
    held.release().await;
    until("every accepted chunk is answered", || {
        entrance.inside() == Some([0, 0, 0, 0]) && entrance.waiting() == 0
    })
    .await;
    assert_eq!(service.stored().await, 37);
    service.stop().await;
}

#[actix_web::test]
async fn without_parallel_processing_one_chunk_is_in_the_stages_at_a_time() {
    let encoder = Counting::default();
    let largest = encoder.largest.clone();
    let overrides = Overrides { encoder: Some(encoder.factory()), ..overrides() };
    let service = TestService::build(overrides, &["--enable-parallel", "false"]).await;
    let two =
        futures_util::future::join(service.stream(numbered(0..40)), service.stream(numbered(40..80))).await;
    assert_eq!((tally(&two.0), tally(&two.1)), ((40, 0, 0), (40, 0, 0)));
    assert_eq!(largest.load(Ordering::SeqCst), 1);
    let commits = service.database.number("SELECT count(DISTINCT xmin::text) FROM chunks").await;
    assert_eq!(commits, 80, "each chunk had a transaction of its own");
    service.stop().await;
}

#[actix_web::test]
async fn without_batch_embeddings_each_text_has_a_pass_of_its_own() {
    let encoder = Counting::default();
    let (passes, largest) = (encoder.passes.clone(), encoder.largest.clone());
    let overrides = Overrides { encoder: Some(encoder.factory()), ..overrides() };
    let service = TestService::build(overrides, &["--enable-batch-embeddings", "false"]).await;
    assert_eq!(tally(&service.stream(numbered(0..200)).await), (200, 0, 0));
    assert_eq!((passes.load(Ordering::SeqCst), largest.load(Ordering::SeqCst)), (200, 1));
    service.stop().await;
}

/// The scripted encoder, which counts its passes and the texts of the largest one.
#[derive(Clone, Default)]
struct Counting {
    passes: Arc<AtomicUsize>,
    largest: Arc<AtomicUsize>,
}

impl Counting {
    fn factory(self) -> lnsp_ingest::app::EncoderFactory {
        Arc::new(move || Box::new(Counted { inner: Scripted::new(), counts: self.clone() }))
    }
}

struct Counted {
    inner: Scripted,
    counts: Counting,
}

impl Encoder for Counted {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn dims(&self) -> usize {
        self.inner.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        self.counts.passes.fetch_add(1, Ordering::SeqCst);
        self.counts.largest.fetch_max(texts.len(), Ordering::SeqCst);
        self.inner.encode(texts)
    }
}
