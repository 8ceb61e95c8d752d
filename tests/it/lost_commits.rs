//! Connections to the database that break, above all around a COMMIT: the answer is true all the same.

use crate::house::{House, Raw, Scripted, overrides, numbered, stream_to, tally};
use crate::scissors::{Cut, Scissors};
use crate::valve::Valve;
use crate::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::flow::Capacity;
use serde_json::json;
use std::time::Duration;

fn scripted() -> Overrides {
    Overrides { encoder: Some(Scripted::factory()), ..overrides() }
}

async fn behind(scissors: &Scissors, overrides: Overrides) -> House {
    House::build_at(scissors.database.clone(), overrides, &[]).await
}

/// Every chunk is answered `stored` once, is in database and index when it is, and is known when it is sent again.
async fn stored_once(house: &House, chunks: usize) {
    let answer = house.stream(numbered(0..chunks)).await;
    assert_eq!(house.stored().await, chunks as u64, "also in the index, as soon as it is answered");
    assert_eq!(tally(&answer), (chunks, 0, 0));
    assert_eq!(house.database.number("SELECT count(DISTINCT id) FROM chunks").await, chunks as i64);
    assert_eq!(tally(&house.stream(numbered(0..chunks)).await), (0, chunks, 0));
    assert_eq!(house.state.pipeline.health().generation, 1, "nobody died of it");
}

#[actix_web::test]
async fn a_commit_that_never_arrived_is_made_again() {
    let scissors = Scissors::new().await;
    let house = behind(&scissors, scripted()).await;
    scissors.cut([Cut::Before]);
    stored_once(&house, 600).await;
    assert_eq!(scissors.struck(), [1, 0]);
    house.stop().await;
}

#[actix_web::test]
async fn a_commit_whose_end_was_not_heard_is_looked_up_and_answered_as_stored() {
    let scissors = Scissors::new().await;
    let house = behind(&scissors, scripted()).await;
    scissors.cut([Cut::After]);
    stored_once(&house, 600).await;
    assert_eq!(scissors.struck(), [0, 1]);
    house.stop().await;
}

#[actix_web::test]
async fn many_cuts_on_both_sides_lose_and_double_nobody() {
    let scissors = Scissors::new().await;
    let house = behind(&scissors, scripted()).await;
    scissors.cut([Cut::After, Cut::Before, Cut::Never].repeat(8));
    // At least twelve transactions of 256 come through, so the script is played to its end.
    stored_once(&house, 3000).await;
    assert_eq!(scissors.struck(), [8, 8]);
    house.stop().await;
}

#[actix_web::test]
async fn a_row_that_is_refused_after_a_cut_is_still_found_alone() {
    let scissors = Scissors::new().await;
    let house = behind(&scissors, scripted()).await;
    house.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (id <> 'n300')").await;
    scissors.cut([Cut::After, Cut::Before].repeat(3));
    let answer = house.stream(numbered(0..600)).await;
    assert_eq!(tally(&answer), (599, 0, 1));
    assert_eq!(house.stored().await, 599);
    let letters = "SELECT concat_ws(' ', id, stage, cause, delivery_attempts, times) FROM dead_letters";
    assert_eq!(house.database.texts(letters).await, ["n300 write store_failed 1 1"]);
    assert_eq!(scissors.struck(), [3, 3]);
    house.stop().await;
}

#[actix_web::test]
async fn a_lost_commit_is_answered_without_an_index_that_says_it_is_degraded() {
    let scissors = Scissors::new().await;
    let index = |options: &mut lnsp_ingest::index::IndexOptions| options.policy.grace = Duration::ZERO;
    let house = behind(&scissors, Overrides { index, ..scripted() }).await;
    // What an index reads and a writer does not.
    house.database.run("ALTER TABLE tombstones RENAME TO elsewhere").await;
    scissors.cut([Cut::After]);
    let answer = house.stream(numbered(0..600)).await;
    assert_eq!((tally(&answer), scissors.struck()), ((600, 0, 0), [0, 1]));
    assert_eq!(house.rows().await, 600);
    let (status, ready) = house.get("/ready").await;
    let reason = ready["reasons"][0].as_str().unwrap();
    assert!(status == 503 && reason.starts_with("search is degraded"), "{ready}");
    assert!(house.state.index.len().unwrap() < 600, "the lost ones are missing");

    house.database.run("ALTER TABLE elsewhere RENAME TO tombstones").await;
    until("the index has caught up", || house.state.index.len().unwrap() == 600).await;
    until("and says so", || house.state.index.status().degraded.is_none()).await;
    assert_eq!(house.stored().await, 600);
    house.stop().await;
}

#[actix_web::test]
async fn while_the_database_is_gone_nothing_is_read_and_nothing_is_lost() {
    let scissors = Scissors::new().await;
    let mut overrides = scripted();
    let slots = |items| Capacity { items, bytes: 1 << 30 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) =
        (slots(8), slots(16), slots(12));
    let house = behind(&scissors, overrides).await;
    let held = house.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let mut upload = Raw::upload(&house).await;
    upload.send(&numbered(0..3000)).await;
    let entrance = house.state.pipeline.entrance();
    let full = || entrance.inside() == Some([0, 8, 16, 12]) && entrance.waiting() > 0;
    until("every slot is taken", full).await;
    let waiting = entrance.waiting();

    // A transaction is under way.
    scissors.go_away();
    let tried = scissors.tries();
    until("the writer has tried again and again", || scissors.tries() >= tried + 4).await;
    assert!(full() && entrance.waiting() == waiting, "nobody came in and nobody was answered");
    let (status, ready) = house.get("/ready").await;
    let reason = ready["reasons"][0].as_str().unwrap();
    assert!(status == 503 && reason.starts_with("PostgreSQL does not answer"), "{ready}");

    held.release().await;
    scissors.come_back();
    upload.end().await;
    let seen = upload.read_until("\"type\":\"summary\"").await;
    for count in ["\"stored\":3000", "\"duplicates\":0", "\"failed\":0", "\"complete\":true"] {
        assert!(seen.contains(count), "{count}: {seen}");
    }
    assert_eq!(house.stored().await, 3000);
    house.stop().await;
}

#[actix_web::test]
async fn a_dead_letter_waits_for_the_database_and_its_client_for_the_letter() {
    let (scissors, valve) = (Scissors::new().await, Valve::shut());
    valve.break_on(Some("It breaks the model."));
    let house = behind(&scissors, Overrides { encoder: Some(valve.factory()), ..overrides() }).await;
    let line = json!({ "text": "It breaks the model." }).to_string();
    let stream = actix_web::rt::spawn(stream_to(house.url.clone(), line));
    let entrance = house.state.pipeline.entrance();
    until("it is inside", || entrance.inside() == Some([0, 0, 1, 0])).await;
    scissors.go_away();
    let tried = scissors.tries();
    valve.open();
    until("the letter was tried again and again", || scissors.tries() >= tried + 4).await;
    assert_eq!((entrance.inside(), entrance.keys()), (Some([0, 0, 1, 0]), 1));
    scissors.come_back();
    let answer = stream.await.unwrap();
    assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!("embed_failed")));
    let letters = "SELECT concat_ws(' ', stage, cause, delivery_attempts, times) FROM dead_letters";
    assert_eq!(house.database.texts(letters).await, ["embed embed_failed 1 1"]);
    house.stop().await;
}
