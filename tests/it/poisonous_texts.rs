//! Forward passes that fail as a whole are bisected until the bad text is isolated; all other texts are stored.

use crate::support::scripted_encoder::{Conduct, service, tokens};
use crate::support::test_service::{numbered, tally};
use lnsp_ingest::encoder::Tokens;
use serde_json::Value;

const BAD: &str = "This is fact number 31.";

/// The only rejected line of a response.
fn rejected(answer: &[Value]) -> &Value {
    let mut errors = answer.iter().filter(|line| line["status"] == "error");
    let error = errors.next().unwrap();
    assert!(errors.next().is_none());
    error
}

#[actix_web::test]
async fn a_text_that_panics_is_found_by_bisection_and_fails_alone() {
    let bad = tokens(BAD);
    let panics = move |texts: &[&Tokens]| if texts.contains(&&bad) { Conduct::Panics } else { Conduct::Well };
    let (service, log) = service(panics).await;
    let answer = service.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&"embed_failed".into(), &"the model broke on this text".into())
    );
    assert_eq!(service.stored().await, 63);
    assert_eq!(service.state.pipeline.health().generation, 1, "no stage has died of it");
    service.stop().await;

    // Each failed pass is about half of the last one, down to the text itself; all others were computed once.
    let failed = log.sizes(&Conduct::Panics);
    let halves = |pair: &[usize]| [pair[0] / 2, pair[0].div_ceil(2)].contains(&pair[1]);
    assert!(failed.windows(2).all(halves) && failed.last() == Some(&1), "{failed:?}");
    assert_eq!(log.computed(), 63);
}

#[actix_web::test]
async fn a_pass_that_is_too_large_for_the_memory_goes_in_parts_and_everything_is_stored() {
    const ROOM: usize = 3;
    let (service, log) =
        service(|texts| if texts.len() > ROOM { Conduct::RunsOut } else { Conduct::Well }).await;
    assert_eq!(tally(&service.stream(numbered(0..200)).await), (200, 0, 0));
    assert_eq!(service.stored().await, 200);
    service.stop().await;
    assert_eq!(log.computed(), 200, "each text was computed once");
    let log = log.passes();
    let larger = |passes: &[(usize, Conduct)]| passes.iter().filter(|pass| pass.0 > 2 * ROOM).count();
    let (first, second) = log.split_at(log.len() / 2);
    assert!(larger(first) > 0 && larger(second) > 0, "a later batch is as large as ever: {log:?}");
}

#[actix_web::test]
async fn a_text_too_large_for_the_memory_is_reported() {
    let bad = tokens(BAD);
    let (service, _) =
        service(move |texts| if texts.contains(&&bad) { Conduct::RunsOut } else { Conduct::Well }).await;
    let answer = service.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "embed_failed");
    assert!(message.starts_with("the model has not enough memory for this text alone"), "{message}");
    service.stop().await;
}

#[actix_web::test]
async fn a_vector_that_is_not_finite_fails_its_chunk_alone_and_costs_no_second_pass() {
    let bad = tokens(BAD);
    let (service, log) = service(move |texts| {
        texts.iter().position(|text| **text == bad).map_or(Conduct::Well, Conduct::NotFinite)
    })
    .await;
    let answer = service.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    assert_eq!(error["code"], "embed_failed");
    assert!(error["message"].as_str().unwrap().contains("values that are not finite"), "{error}");
    assert_eq!(service.stored().await, 63);
    assert_eq!(log.passes().iter().map(|pass| pass.0).sum::<usize>(), 64);
    service.stop().await;
}
