//! Which requests are admitted, which are refused and how, and that every admitted one is served.

use crate::streams::zstd;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Poison, Scripted, TestService, numbered, overrides, tally};
use crate::support::wait::until;
use lnsp_ingest::app::{EncoderFactory, Overrides};
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokens};
use lnsp_ingest::flow::{Backoff, Capacity};
use lnsp_ingest::http::Limits;
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::stages::Stage;
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const STREAM: &str = "Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";

/// The scripted encoder, with these limits.
fn limited(change: impl FnOnce(&mut Limits)) -> Overrides {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    change(&mut overrides.admission);
    overrides
}

/// The whole seconds of the answer's advice.
fn advice(head: &str) -> u64 {
    head.split("retry-after: ").nth(1).unwrap().split_once('\r').unwrap().0.parse().unwrap()
}

fn refused(answer: &(String, Value), status: &str, code: &str) {
    let (head, body) = answer;
    assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}{body}");
    assert!((1..=72).contains(&advice(head)), "{head}");
    let error = &body["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&json!(code), &json!(true)), "{body}");
    assert!(
        head.contains(&format!("x-request-id: {}", body["request_id"].as_str().unwrap())),
        "{head}{body}"
    );
}

fn chunks(texts: &[&str]) -> String {
    let chunks: Vec<Value> = texts.iter().map(|text| json!({"id": text, "text": text})).collect();
    json!({ "chunks": chunks }).to_string()
}

/// Two uploads that fill a service which takes two.
async fn full() -> (TestService, [RawConnection; 2]) {
    let service = TestService::build(limited(|_| {}), &["--max-uploads", "2"]).await;
    let uploads = [RawConnection::upload(&service).await, RawConnection::upload(&service).await];
    until("two uploads are admitted", || service.state.admission.in_use() == 2).await;
    (service, uploads)
}

#[actix_web::test]
async fn an_upload_too_many_is_refused_before_its_first_byte_and_small_requests_are_not() {
    let (service, [mut first, second]) = full().await;
    for headers in [STREAM, "Content-Length: 1000000\r\n"] {
        // Not a byte of the body is sent, and the answer does not wait for it.
        let mut third = RawConnection::upload_with(&service.url, headers).await;
        let answer = third.answer().await;
        refused(&answer, "429", "overloaded");
        assert!(answer.0.contains("connection: close"), "{}", answer.0);
    }
    let (status, answer) = service.post("/ingest", chunks(&["small"])).await;
    assert_eq!((status, &answer["successful"]), (200, &json!(1)));
    assert_eq!(service.post("/search", r#"{"query":"small"}"#).await.0, 200);

    first.send(numbered(0..10)).await;
    first.end().await;
    first.read_until("\"complete\":true").await;
    until("its permit is back", || service.state.admission.in_use() == 1).await;
    assert_eq!(tally(&service.stream(numbered(10..20)).await), (10, 0, 0));
    second.reset();
    until("the permit of the aborted upload is back", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.stored().await, 21);
    service.stop().await;
}

#[actix_web::test]
async fn a_client_that_still_sends_sees_its_refusal_and_then_an_orderly_end() {
    let (service, uploads) = full().await;
    for headers in [STREAM, "Content-Length: 4194304\r\n"] {
        let mut third = RawConnection::upload_with(&service.url, headers).await;
        if headers == STREAM {
            third.send(vec![b'x'; 4 << 20]).await;
            third.end().await;
        } else {
            third.write(vec![b'x'; 4 << 20]).await;
        }
        // It has sent everything before it reads a byte.
        refused(&third.answer().await, "429", "overloaded");
        tokio::io::AsyncWriteExt::shutdown(&mut third.socket).await.unwrap();
        assert_eq!(third.rest().await, "");
    }
    drop(uploads);
    until("all permits are back", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.state.counts.tally().failed, 0, "nothing of what was refused was read as lines");
    service.stop().await;
}

#[actix_web::test]
async fn a_client_that_asks_first_is_told_before_it_sends() {
    let (service, [first, second]) = full().await;
    for headers in [STREAM, "Content-Length: 1000000\r\n"] {
        let mut third =
            RawConnection::upload_with(&service.url, &format!("Expect: 100-continue\r\n{headers}")).await;
        refused(&third.answer().await, "429", "overloaded");
        tokio::io::AsyncWriteExt::shutdown(&mut third.socket).await.unwrap();
        assert_eq!(third.rest().await, "");
    }
    let mut wrong = RawConnection::connect(&service.url).await.unwrap();
    wrong
        .write(
            "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    let (head, body) = wrong.answer().await;
    assert!(head.starts_with("http/1.1 415") && body["error"]["code"] == "unsupported_media_type", "{head}");

    first.reset();
    until("a permit is back", || service.state.admission.in_use() == 1).await;
    let mut third =
        RawConnection::upload_with(&service.url, &format!("Expect: 100-continue\r\n{STREAM}")).await;
    third.read_until("100 Continue\r\n\r\n").await;
    third.send(numbered(0..3)).await;
    third.end().await;
    third.read_until("\"complete\":true").await;
    assert_eq!(service.stored().await, 3);
    drop(second);
    service.stop().await;
}

#[actix_web::test]
async fn slow_clients_do_not_lock_out_others() {
    let overrides = limited(|limits| {
        (limits.requests, limits.request_bytes) = (8, 32 * 1024 * 1024);
        limits.cut_after = Duration::from_millis(1);
    });
    let service = TestService::build(overrides, &[]).await;
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    // Half of them announce the largest body, the others send most of a body and no more.
    let mut slow = Vec::new();
    for client in 0..8 {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        raw.write(format!("{head}Content-Length: 8388608\r\n\r\n")).await;
        raw.write(" ".repeat(if client < 4 { 10 } else { 1_500_000 })).await;
        slow.push(raw);
    }
    until("all are let in", || service.state.admission.in_use() == 8).await;
    for honest in 0..20 {
        let (status, answer) = service.post("/ingest", chunks(&[&format!("honest {honest}")])).await;
        assert_eq!((status, &answer["successful"]), (200, &json!(1)), "{answer}");
    }
    // The first of them needed a place, and one is enough.
    let mut cut = 0;
    for raw in &mut slow {
        let waiting = std::time::Duration::from_millis(1);
        if let Ok(answer) = tokio::time::timeout(waiting, raw.answer()).await {
            refused(&answer, "429", "overloaded");
            cut += 1;
        }
    }
    assert!((1..=20).contains(&cut), "{cut}");
    drop(slow);
    until("everybody is gone", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.stored().await, 20);
    service.stop().await;
}

#[actix_web::test]
async fn requests_are_limited_in_number_and_bytes_and_a_small_refusal_keeps_the_connection() {
    let overrides = limited(|limits| {
        (limits.requests, limits.request_bytes) = (2, 100 * 1024);
        limits.cut_after = Duration::MAX;
    });
    let service = TestService::build(overrides, &[]).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let mut waiting = RawConnection::connect(&service.url).await.unwrap();
    let body = chunks(&["first"]);
    waiting.write(format!("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    until("the first is inside", || service.state.counts.unanswered() == 1).await;

    // A body for which there is no room is refused at once; one that fits is let in, and takes what has arrived.
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut large = RawConnection::connect(&service.url).await.unwrap();
    large.write(format!("{head}Content-Length: 102400\r\n\r\n")).await;
    refused(&large.answer().await, "429", "overloaded");
    let mut unknown = RawConnection::connect(&service.url).await.unwrap();
    unknown.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    until("a body of unknown length is let in", || service.state.admission.in_use() == 2).await;
    unknown.send("[".repeat(102_400)).await;
    refused(&unknown.answer().await, "429", "overloaded");
    until("it is gone", || service.state.admission.in_use() == 1).await;
    let mut second = RawConnection::connect(&service.url).await.unwrap();
    second.write(format!("{head}Content-Length: 50000\r\n\r\n")).await;
    until("the second is admitted", || service.state.admission.in_use() == 2).await;

    let mut third = RawConnection::connect(&service.url).await.unwrap();
    for _ in 0..3 {
        let answer = third.ask("POST /ingest", "", &chunks(&["third"])).await;
        refused(&answer, "429", "overloaded");
        assert!(!answer.0.contains("connection: close"), "{}", answer.0);
    }
    assert!(third.ask("GET /stats", "", "").await.0.starts_with("http/1.1 200"));

    second.reset();
    until("the second is gone", || service.state.admission.in_use() == 1).await;
    // The first one's client goes too: it was taken as a whole, so it is brought to its end.
    waiting.reset();
    held.release().await;
    until("all requests are over", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.stored().await, 1);
    assert!(third.ask("POST /ingest", "", &chunks(&["third"])).await.0.starts_with("http/1.1 200"));
    service.stop().await;
}

#[actix_web::test]
async fn while_the_database_is_away_uploads_are_refused_and_afterwards_they_are_not() {
    let service = TestService::build(limited(|limits| limits.grace = Duration::from_millis(50)), &[]).await;
    let name = service.database.texts("SELECT current_database()").await.remove(0);
    let admin = service.database.elsewhere("postgres");
    admin.run(&format!("ALTER DATABASE \"{name}\" WITH ALLOW_CONNECTIONS false")).await;
    let sessions = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    admin.texts(&sessions).await;
    until("it is noticed", || service.state.admission.unavailable().is_some()).await;
    let mut upload = RawConnection::upload_with(&service.url, STREAM).await;
    refused(&upload.answer().await, "503", "store_unavailable");
    let mut request = RawConnection::connect(&service.url).await.unwrap();
    refused(&request.ask("POST /ingest", "", &chunks(&["a"])).await, "503", "store_unavailable");

    admin.run(&format!("ALTER DATABASE \"{name}\" WITH ALLOW_CONNECTIONS true")).await;
    until("it is noticed", || service.state.admission.unavailable().is_none()).await;
    assert_eq!(tally(&service.stream(numbered(0..10)).await), (10, 0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn while_the_pipeline_heals_for_long_uploads_are_refused() {
    let fault_hook = Arc::new(Poison { stage: Stage::Tmd, text: "This one kills." });
    let mut overrides =
        Overrides { fault_hook, ..limited(|limits| limits.grace = Duration::from_millis(50)) };
    // The first death is healed at once; after the second there is a pause, longer than anybody here waits.
    let pause = Duration::from_secs(3600);
    overrides.pipeline.heal = Backoff { first: pause, ceiling: pause };
    let service = TestService::build(overrides, &[]).await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send("{\"text\":\"This one kills.\"}\n").await;
    until("it is noticed", || service.state.admission.unavailable().is_some()).await;
    let mut late = RawConnection::upload_with(&service.url, STREAM).await;
    refused(&late.answer().await, "503", "healing");
    assert_eq!(service.get("/ready").await.0, 503);
    drop(upload);
    // Not in order: the pipeline would wait for the pause.
    drop(service);
}

/// An encoder that notes its texts in order, and waits until it may go on.
#[derive(Clone, Default)]
struct Stepped(Arc<(Mutex<Steps>, Condvar)>);

#[derive(Default)]
struct Steps {
    open: bool,
    seen: Vec<String>,
}

impl Stepped {
    fn factory(&self) -> EncoderFactory {
        let steps = self.clone();
        Arc::new(move || Box::new(SteppedEncoder(Scripted::new(), steps.clone())))
    }

    fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    fn seen(&self) -> usize {
        self.0.0.lock().unwrap().seen.len()
    }
}

struct SteppedEncoder(Scripted, Stepped);

impl Encoder for SteppedEncoder {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        let (steps, open) = &*(self.1).0;
        let mut steps = steps.lock().unwrap();
        steps.seen.extend(texts.iter().map(|tokens| format!("{tokens:?}")));
        drop(open.wait_while(steps, |steps| !steps.open).unwrap());
        self.0.encode(texts)
    }
}

#[actix_web::test]
async fn uploads_and_a_small_request_take_turns_chunk_by_chunk() {
    const BULKS: usize = 3;
    const SMALL: usize = 20;
    let stepped = Stepped::default();
    let mut overrides = Overrides { encoder: Some(stepped.factory()), ..overrides() };
    let one = Capacity { items: 1, bytes: 1 << 20 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) = (one, one, one);
    let service = TestService::build(overrides, &["--enable-batch-embeddings", "false"]).await;
    let entrance = service.state.pipeline.entrance();

    // Each bulk upload waits with one group before a full service, in the order in which they came.
    let mut bulks = Vec::new();
    for bulk in 0..BULKS {
        // One block of zstd is inflated as a whole, so the group does not depend on how the socket delivers.
        let mut upload = RawConnection::upload_as(&service, "zstd").await;
        let lines: String = (0..200)
            .map(|n| format!("{{\"id\":\"{bulk}-{n}\",\"text\":\"Bulk {bulk} line {n}.\"}}\n"))
            .collect();
        upload.send(zstd(lines)).await;
        upload.end().await;
        let inside = |full: &[usize; 4]| full[1..3].iter().sum::<usize>();
        until("the bulk upload waits", || {
            let service = entrance.inside().unwrap();
            stepped.seen() == 1
                && inside(&service) == 2
                && entrance.waiting() + inside(&service) == 200 * (bulk + 1)
        })
        .await;
        bulks.push(upload);
    }
    // Then comes a small request.
    let url = service.url.clone();
    let texts: Vec<String> = (0..SMALL).map(|n| format!("Small {n}.")).collect();
    let small = actix_web::rt::spawn(async move {
        let body = chunks(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        RawConnection::connect(&url).await.unwrap().ask("POST /ingest", "", &body).await
    });
    until("it waits too", || entrance.waiting() == 200 * BULKS - 2 + SMALL).await;
    stepped.open();
    let (head, answer) = small.await.unwrap();
    assert!(head.starts_with("http/1.1 200"), "{answer}");
    let seq = |at: usize| answer["results"][at]["seq"].as_u64().unwrap() as usize;
    // It waits for the end of no other. From its first chunk to its last each of the four has as many turns; one that
    // misses a turn, because a thread slept, has the next.
    let (first, all) = (seq(0), seq(SMALL - 1) - seq(0));
    assert!(first < 200, "its first came after {first} others");
    let turns = (SMALL - 1) * (BULKS + 1);
    let round = BULKS + 1;
    assert!((turns - 2 * round..=turns + 2 * round).contains(&all), "{all} instead of {turns}");
    for bulk in &mut bulks {
        bulk.read_until("\"complete\":true").await;
    }
    assert_eq!(service.stored().await, (200 * BULKS + SMALL) as u64);
    service.stop().await;
}

#[actix_web::test]
async fn all_permits_come_back_from_clients_that_break_off_anywhere() {
    let service = TestService::build(limited(|_| {}), &["--max-uploads", "8"]).await;
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\n";
    let json = format!("{head}Content-Type: application/json\r\n");
    let lines = format!("{head}Content-Type: application/x-ndjson\r\n");
    let whole = r#"{"chunks":[{"id":"n9","text":"Number 9"}]}"#;
    let texts = [
        head.to_owned(),
        format!("{json}Content-Length: 500\r\n\r\n{{\"chunks\""),
        format!("{json}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"chu"),
        format!("{lines}Content-Length: 9999\r\n\r\n{}", numbered(0..3)),
        format!("{json}Content-Length: {}\r\n\r\n{whole}", whole.len()),
    ];
    let (admission, counts) = (&service.state.admission, &service.state.counts);
    let answered = || {
        let tally = counts.tally();
        tally.stored + tally.duplicate + tally.failed
    };
    for round in 0..40 {
        let (kind, before) = (round % texts.len(), answered());
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        raw.write(&texts[kind]).await;
        match kind {
            0 => {}
            // Its answer may be on its way.
            4 => until("it is answered", || answered() == before + 1).await,
            3 => until("its lines are answered", || answered() == before + 3).await,
            _ => until("it is admitted", || admission.in_use() == 1).await,
        }
        if round % 2 == 0 {
            raw.reset();
        } else {
            drop(raw);
        }
        until("it is gone", || admission.in_use() == 0 && counts.active_uploads() == 0).await;
    }
    assert_eq!(counts.unanswered(), 0);
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (0, 3, 0));
    service.stop().await;
}
