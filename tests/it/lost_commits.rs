//! Connections to the database that break, above all around a COMMIT: the answers are true all the same.

use crate::support::commit_cut_proxy::{CommitCutProxy, Cut};
use crate::support::gated_encoder::GatedEncoder;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::flow::Capacity;
use serde_json::json;
use std::time::Duration;

fn scripted() -> Overrides {
    Overrides { encoder: Some(Scripted::factory()), ..overrides() }
}

async fn behind(proxy: &CommitCutProxy, overrides: Overrides) -> TestService {
    TestService::build_at(proxy.database.clone(), overrides, &[]).await
}

/// Every chunk is answered `stored` once, is in database and index when it is, and is known when it is sent again.
async fn stored_once(service: &TestService, chunks: usize) {
    let answer = service.stream(numbered(0..chunks)).await;
    assert_eq!(service.stored().await, chunks as u64, "also in the index, as soon as it is answered");
    assert_eq!(tally(&answer), (chunks, 0, 0));
    assert_eq!(service.database.number("SELECT count(DISTINCT id) FROM chunks").await, chunks as i64);
    assert_eq!(tally(&service.stream(numbered(0..chunks)).await), (0, chunks, 0));
    assert_eq!(service.state.pipeline.health().generation, 1, "no stage died");
}

#[actix_web::test]
async fn a_commit_that_never_arrived_is_made_again() {
    let proxy = CommitCutProxy::new().await;
    let service = behind(&proxy, scripted()).await;
    proxy.cut([Cut::Before]);
    stored_once(&service, 600).await;
    assert_eq!(proxy.struck(), [1, 0]);
    service.stop().await;
}

#[actix_web::test]
async fn a_commit_whose_result_was_lost_is_looked_up_and_answered_as_stored() {
    let proxy = CommitCutProxy::new().await;
    let service = behind(&proxy, scripted()).await;
    proxy.cut([Cut::After]);
    stored_once(&service, 600).await;
    assert_eq!(proxy.struck(), [0, 1]);
    service.stop().await;
}

#[actix_web::test]
async fn many_cuts_on_both_sides_lose_and_double_no_chunk() {
    let proxy = CommitCutProxy::new().await;
    let mut overrides = scripted();
    overrides.pipeline.write = Capacity { items: 256, bytes: 1 << 30 };
    let service = behind(&proxy, overrides).await;
    proxy.cut([Cut::After, Cut::Before, Cut::Never].repeat(8));
    // The last cut comes after fifteen commits that hold: those that are cut afterwards, and those that are not. At most
    // 256 chunks, as many as the writer has slots, are in one.
    stored_once(&service, 16 * 256).await;
    assert_eq!(proxy.struck(), [8, 8]);
    service.stop().await;
}

#[actix_web::test]
async fn a_row_that_is_refused_after_a_cut_is_still_found_alone() {
    let proxy = CommitCutProxy::new().await;
    let service = behind(&proxy, scripted()).await;
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (id <> 'n300')").await;
    proxy.cut([Cut::After, Cut::Before].repeat(3));
    let answer = service.stream(numbered(0..600)).await;
    assert_eq!(tally(&answer), (599, 0, 1));
    assert_eq!(service.stored().await, 599);
    let letters = "SELECT concat_ws(' ', id, stage, cause, attempts, times) FROM dead_letters";
    assert_eq!(service.database.texts(letters).await, ["n300 write store_failed 1 1"]);
    assert_eq!(proxy.struck(), [3, 3]);
    service.stop().await;
}

#[actix_web::test]
async fn a_lost_commit_is_answered_without_an_index_that_says_it_is_degraded() {
    let proxy = CommitCutProxy::new().await;
    let index = |options: &mut lnsp_ingest::index::IndexOptions| options.policy.grace = Duration::ZERO;
    let service = behind(&proxy, Overrides { index, ..scripted() }).await;
    // A table that the index reads and the writer does not.
    service.database.run("ALTER TABLE tombstones RENAME TO elsewhere").await;
    proxy.cut([Cut::After]);
    let answer = service.stream(numbered(0..600)).await;
    assert_eq!((tally(&answer), proxy.struck()), ((600, 0, 0), [0, 1]));
    assert_eq!(service.rows().await, 600);
    let (status, ready) = service.get("/ready").await;
    let reason = ready["reasons"][0].as_str().unwrap();
    assert!(status == 503 && reason.starts_with("search is degraded"), "{ready}");
    assert!(service.state.index.len() < 600, "the rows of the lost commit are missing");

    service.database.run("ALTER TABLE elsewhere RENAME TO tombstones").await;
    until("the index has caught up", || service.state.index.len() == 600).await;
    until("and says so", || service.state.index.status().degraded.is_none()).await;
    assert_eq!(service.stored().await, 600);
    service.stop().await;
}

#[actix_web::test]
async fn while_the_database_is_gone_nothing_is_read_and_nothing_is_lost() {
    let proxy = CommitCutProxy::new().await;
    let mut overrides = scripted();
    let slots = |items| Capacity { items, bytes: 1 << 30 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) =
        (slots(8), slots(16), slots(12));
    let service = behind(&proxy, overrides).await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send(&numbered(0..3000)).await;
    let entrance = service.state.pipeline.entrance();
    let full = || entrance.inside() == Some([0, 8, 16, 12]) && entrance.waiting() > 0;
    until("every slot is taken", full).await;
    let waiting = entrance.waiting();

    // A transaction is under way.
    proxy.go_away();
    let tried = proxy.tries();
    until("the writer has tried again and again", || proxy.tries() >= tried + 4).await;
    assert!(full() && entrance.waiting() == waiting, "no chunk was admitted and none was answered");
    let (status, ready) = service.get("/ready").await;
    let reason = ready["reasons"][0].as_str().unwrap();
    assert!(status == 503 && reason.starts_with("PostgreSQL does not answer"), "{ready}");

    held.release().await;
    proxy.come_back();
    upload.end().await;
    let seen = upload.read_until("\"type\":\"summary\"").await;
    for count in ["\"stored\":3000", "\"duplicates\":0", "\"failed\":0", "\"complete\":true"] {
        assert!(seen.contains(count), "{count}: {seen}");
    }
    assert_eq!(service.stored().await, 3000);
    service.stop().await;
}

#[actix_web::test]
async fn a_dead_letter_waits_for_the_database_and_its_client_for_the_letter() {
    let (proxy, gate) = (CommitCutProxy::new().await, GatedEncoder::shut());
    gate.break_on(Some("It breaks the model."));
    let service = behind(&proxy, Overrides { encoder: Some(gate.factory()), ..overrides() }).await;
    let line = json!({ "text": "It breaks the model." }).to_string();
    let stream = actix_web::rt::spawn(stream_to(service.url.clone(), line));
    let entrance = service.state.pipeline.entrance();
    until("it is in the embedder", || entrance.inside() == Some([0, 0, 1, 0])).await;
    proxy.go_away();
    let tried = proxy.tries();
    gate.open();
    until("the letter was tried again and again", || proxy.tries() >= tried + 4).await;
    assert_eq!((entrance.inside(), entrance.keys()), (Some([0, 0, 1, 0]), 1));
    proxy.come_back();
    let answer = stream.await.unwrap();
    assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!("embed_failed")));
    let letters = "SELECT concat_ws(' ', stage, cause, attempts, times) FROM dead_letters";
    assert_eq!(service.database.texts(letters).await, ["embed embed_failed 1 1"]);
    service.stop().await;
}
