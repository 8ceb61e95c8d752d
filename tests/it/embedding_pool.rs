//! Several embedding servers: how they share the requests, whose model counts, and what becomes of the chunks when one of
//! them dies or has another model.

use crate::support::scripted_embedder::{DIMS, ScriptedEmbedder, Step, direction};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::encoder::plan::Budget;
use lnsp_ingest::flow::Backoff;
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::server_pool::Standing;
use lnsp_ingest::threads::Lane;
use lnsp_ingest::vectorizer::{Remote, RemoteSettings, Text, Vectorizer};
use serde_json::{Value, json};
use std::time::Duration;

fn list(servers: &[&ScriptedEmbedder]) -> String {
    servers.iter().map(|server| server.url.as_str()).collect::<Vec<_>>().join(",")
}

/// The default settings with short pauses.
fn settings(servers: &str) -> RemoteSettings {
    let backoff = Backoff { first: Duration::from_millis(1), ceiling: Duration::from_millis(4) };
    RemoteSettings { backoff, repeats: 2, ..RemoteSettings::at(servers.parse().unwrap()) }
}

async fn connect(settings: RemoteSettings) -> Vectorizer {
    Vectorizer::remote(Remote::connect(settings).await.unwrap(), Budget { tokens: 8192, texts: 64 })
}

fn standings(vectorizer: &Vectorizer) -> Vec<Standing> {
    vectorizer.server().unwrap().servers().iter().map(|server| server.standing).collect()
}

/// Embeds numbered texts in one pass; returns those that have their right vector.
async fn right(vectorizer: &Vectorizer, count: usize) -> Vec<usize> {
    let text = |n: usize| format!("This is fact number {n}.");
    let mut texts: Vec<Text> = Vec::new();
    for n in 0..count {
        texts.push(vectorizer.read(Lane::Bulk, text(n)).await.unwrap());
    }
    let vectors = vectorizer.embed(Lane::Bulk, &texts).await.vectors;
    let found = vectors.iter().enumerate();
    let right =
        found.filter(|(n, found)| found.as_ref().is_ok_and(|found| *found.vector == direction(&text(*n))));
    right.map(|(n, _)| n).collect()
}

#[actix_web::test]
async fn servers_share_the_requests_by_their_slots() {
    let servers = [0; 3].map(|_| ScriptedEmbedder::start([]));
    let [a, b, c] = servers.each_ref().map(|server| &server.url);
    let vectorizer = connect(settings(&format!("{a}*2, {b}*1, {c}"))).await;
    assert_eq!(vectorizer.concurrency(), 7, "four where the list does not say");
    servers.iter().for_each(ScriptedEmbedder::shut);
    let passes: Vec<_> = (0..20)
        .map(|_| {
            let vectorizer = vectorizer.clone();
            actix_web::rt::spawn(async move { right(&vectorizer, 4).await.len() })
        })
        .collect();
    let inside = || servers.each_ref().map(|server| server.inside().0);
    until("all slots are in use", || inside() == [2, 1, 4]).await;
    servers.iter().for_each(ScriptedEmbedder::open);
    for pass in passes {
        assert_eq!(pass.await.unwrap(), 4);
    }
    assert_eq!(servers.each_ref().map(|server| server.inside().1), [2, 1, 4]);
    assert_eq!(servers.iter().map(|server| server.requests().len()).sum::<usize>(), 20);
}

#[actix_web::test]
async fn a_server_with_another_model_is_left_out() {
    let mut other = ScriptedEmbedder::health();
    other["model"] = json!("other-base");
    for (property, health, step) in [
        ("fingerprint", other, None),
        ("encoder", json!({"encoder": "other", "dimension": DIMS}), Some(Step::Encoder("other"))),
        ("dimensions", json!({"encoder": "scripted", "dimension": 9}), Some(Step::Dimensions(9))),
    ] {
        let (first, second) = (ScriptedEmbedder::start([]), ScriptedEmbedder::saying(health, []));
        if let Some(step) = step {
            second.break_after_probes(0, step);
        }
        let vectorizer = connect(settings(&list(&[&first, &second]))).await;
        assert_eq!(standings(&vectorizer), [Standing::Ready, Standing::LeftOut], "{property}");
        let problem = vectorizer.server().unwrap().servers()[1].last_failure.clone().unwrap().0;
        let sentence = format!(
            "the embedding server at {} has another model than this service uses: {property}",
            second.url
        );
        assert!(problem.starts_with(&sentence), "{problem}");
        for _ in 0..10 {
            assert_eq!(right(&vectorizer, 3).await.len(), 3);
        }
        assert_eq!((first.requests().len(), second.requests().len()), (10, 0), "{property}");
        assert_eq!(vectorizer.server().unwrap().problem(), None, "no request has failed");
    }
}

#[actix_web::test]
async fn the_model_of_the_store_counts_more_than_the_order() {
    let mut other = ScriptedEmbedder::health();
    other["model"] = json!("other-base");
    let (first, second) = (ScriptedEmbedder::saying(other, []), ScriptedEmbedder::start([]));
    let stored: ModelIdentity = Remote::connect(settings(&second.url)).await.unwrap().identity().clone();
    let list = list(&[&first, &second]);
    let new = connect(settings(&list)).await;
    assert_eq!(standings(&new), [Standing::Ready, Standing::LeftOut], "a new store takes the first");
    let old = connect(RemoteSettings { stored: Some(stored.clone()), ..settings(&list) }).await;
    assert_eq!(standings(&old), [Standing::LeftOut, Standing::Ready]);
    assert_eq!(*old.server().unwrap().identity(), stored);
}

#[actix_web::test]
async fn the_start_does_not_wait_for_a_server_that_is_down() {
    let (down, up) = (ScriptedEmbedder::start([]), ScriptedEmbedder::start([]));
    let (address, list) = (down.url.clone(), list(&[&down, &up]));
    drop(down);
    let vectorizer = connect(RemoteSettings { repeats: 0, ..settings(&list) }).await;
    assert_eq!(standings(&vectorizer), [Standing::Resting, Standing::Ready]);
    assert_eq!(right(&vectorizer, 5).await.len(), 5);
    let back = ScriptedEmbedder::at(address.strip_prefix("http://").unwrap(), ScriptedEmbedder::health(), []);
    until("a probe finds it", || standings(&vectorizer)[0] == Standing::Trial).await;
    while back.requests().is_empty() {
        assert_eq!(right(&vectorizer, 5).await.len(), 5);
    }
    assert_eq!(standings(&vectorizer), [Standing::Ready; 2]);
    // All of them gone: the error is that of a server.
    drop((back, up));
    // Their threads end a little later.
    until_answered("nothing is embedded", async || right(&vectorizer, 5).await.is_empty()).await;
    assert!(vectorizer.server().unwrap().problem().unwrap().contains("cannot be reached"));
}

#[actix_web::test]
async fn whatever_one_server_does_another_gives_the_vectors() {
    for step in [
        Step::Status(503),
        Step::Status(500),
        Step::Status(422),
        Step::Status(401),
        Step::Rubbish,
        Step::OneLess,
    ] {
        let (bad, good) = (ScriptedEmbedder::start([]), ScriptedEmbedder::start([]));
        let vectorizer = connect(RemoteSettings { repeats: 6, ..settings(&list(&[&bad, &good])) }).await;
        bad.break_after_probes(1, step);
        for _ in 0..4 {
            assert_eq!(right(&vectorizer, 8).await.len(), 8);
        }
        assert!(!bad.requests().is_empty(), "it was asked");
        assert_eq!(vectorizer.server().unwrap().problem(), None);
    }
    // A text that no server can embed fails alone.
    let servers = [0; 2].map(|_| ScriptedEmbedder::start([]));
    servers.iter().for_each(|server| server.refuse_text("This is fact number 5.", 422));
    let vectorizer = connect(settings(&list(&servers.each_ref()))).await;
    assert_eq!(right(&vectorizer, 8).await, [0, 1, 2, 3, 4, 6, 7]);
    assert_eq!(standings(&vectorizer), [Standing::Ready; 2], "the servers are not at fault");
}

#[actix_web::test]
async fn a_server_that_dies_under_load_costs_no_chunk() {
    let [first, second] = [0; 2].map(|_| ScriptedEmbedder::start([]));
    let list = list(&[&first, &second]);
    let service = TestService::build(overrides(), &["--embedding-endpoint", &list]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..4000)));
    until("both have answered", || first.requests().len() > 3 && second.requests().len() > 3).await;
    drop(second);
    assert_eq!(tally(&upload.await.unwrap()), (4000, 0, 0));
    assert_eq!(tally(&service.stream(numbered(4000..4100)).await), (100, 0, 0));
    assert_eq!(service.stored().await, 4100);
    let (_, health) = service.get("/health").await;
    assert_eq!((&health["status"], &health["embedding"]["problem"]), (&json!("healthy"), &Value::Null));
    let servers = health["embedding"]["servers"].as_array().unwrap();
    assert_eq!((servers.len(), &servers[0]["state"]), (2, &json!("answers")));
    assert_eq!(health["embedding"]["server"], list);
    assert_eq!(service.get("/ready").await.0, 200);
    service.stop().await;
}

#[actix_web::test]
async fn two_services_can_embed_for_a_third() {
    let server = async || {
        TestService::build(Overrides { encoder: Some(Scripted::factory()), ..overrides() }, &[]).await
    };
    let (a, b) = (server().await, server().await);
    let service =
        TestService::build(overrides(), &["--embedding-endpoint", &format!("{}*2,{}*2", a.url, b.url)]).await;
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (300, 0, 0));
    assert_eq!(service.stored().await, 300);
    for service in [service, a, b] {
        service.stop().await;
    }
}
