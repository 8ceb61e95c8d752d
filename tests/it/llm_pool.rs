//! Several servers of a language model: how they share the calls, and what becomes of the chunks when one of them dies,
//! has not the model, fails, or takes fewer calls at once than configured.

use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::llm::Llm;
use lnsp_ingest::server_pool::Standing;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};
use std::time::Duration;

/// A simulated model that answers after so long.
fn after(latency: &str) -> Options {
    Options { slots: 64, latency: latency.parse().unwrap(), ..Options::default() }
}

fn start(options: &Options) -> SimulatedLlm {
    SimulatedLlm::start(options.clone()).unwrap()
}

fn port(llm: &SimulatedLlm) -> u16 {
    llm.url().rsplit_once(':').unwrap().1.parse().unwrap()
}

async fn service(servers: &[&SimulatedLlm], flags: &[&str]) -> TestService {
    let list: Vec<&str> = servers.iter().map(|server| server.url()).collect();
    service_at(&list.join(","), flags).await
}

async fn service_at(list: &str, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", list];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

fn llm(service: &TestService) -> Llm {
    service.state.llm.clone().unwrap()
}

fn standings(service: &TestService) -> Vec<Standing> {
    llm(service).servers().iter().map(|server| server.status.standing).collect()
}

async fn labelled_by(service: &TestService, source: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE tmd_source = '{source}'")).await
}

async fn metric(service: &TestService, name: &str, server: &SimulatedLlm) -> String {
    let text = client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    let series = format!("{name}{{backend=\"127.0.0.1:{}\"}} ", port(server));
    let line = text.lines().find(|line| line.starts_with(&series));
    line.unwrap_or_else(|| panic!("no {series}")).rsplit_once(' ').unwrap().1.to_owned()
}

#[actix_web::test]
async fn servers_share_the_calls_by_their_slots() {
    let servers = [0; 3].map(|_| start(&after("30ms")));
    let [a, b, c] = servers.each_ref().map(SimulatedLlm::url);
    let list = format!("{a}*6,{b} * 3,{c}");
    let service = service_at(&list, &["--max-parallel-workers", "4"]).await;
    // The handshake asks each server a question of its own.
    let before = servers.each_ref().map(|server| server.counts().generate);
    assert_eq!(tally(&service.stream(numbered(0..390)).await), (390, 0, 0));
    assert_eq!(servers.each_ref().map(|server| server.counts().most_in_flight), [6, 3, 4]);
    let shares = [0, 1, 2].map(|n| servers[n].counts().generate - before[n]);
    assert_eq!(shares.iter().sum::<u64>(), 390);
    for (share, slots) in shares.iter().zip([6, 3, 4]) {
        assert!((20 * slots..=40 * slots).contains(share), "{shares:?}");
    }
    assert_eq!(labelled_by(&service, "llm").await, 390);

    let health = service.get("/health").await.1;
    assert_eq!(health["llm_endpoint"], format!("{a}*6,{b}*3,{c}"));
    let state = |server: &Value| ["endpoint", "slots", "limit", "state"].map(|name| server[name].clone());
    let states: Vec<[Value; 4]> = health["llm"]["servers"].as_array().unwrap().iter().map(state).collect();
    let expected = |url: &str, slots: usize| [json!(url), json!(slots), json!(slots), json!("answers")];
    assert_eq!(states, [expected(a, 6), expected(b, 3), expected(c, 4)]);
    assert_eq!(metric(&service, "lnsp_llm_concurrency_limit", &servers[1]).await, "3");
    assert_eq!(metric(&service, "lnsp_llm_inflight", &servers[1]).await, "0");
    service.stop().await;
}

#[actix_web::test]
async fn a_server_that_dies_under_load_costs_no_label_and_works_again_when_it_is_back() {
    let options = after("20ms");
    let [first, second, third] = [0; 3].map(|_| start(&options));
    let service = service(&[&first, &second, &third], &["--max-parallel-workers", "10"]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..900)));
    until("all three have answered", || second.counts().answered > 60).await;
    let port = port(&second);
    second.stop();
    assert_eq!(tally(&upload.await.unwrap()), (900, 0, 0));
    assert_eq!(labelled_by(&service, "llm").await, 900, "those that were under way went to the others");
    assert_eq!(standings(&service), [Standing::Ready, Standing::Resting, Standing::Ready]);
    let health = service.get("/health").await.1;
    assert_eq!((&health["llm"]["state"], &health["status"]), (&json!("answers"), &json!("healthy")));
    let problem = health["llm"]["servers"][1]["problem"].as_str().unwrap();
    assert!(
        problem.starts_with(&format!("the LLM at http://127.0.0.1:{port} cannot be reached")),
        "{problem}"
    );

    let second = start(&Options { port, ..options });
    until("a probe finds it", || standings(&service)[1] == Standing::Trial).await;
    let counts = second.counts();
    assert!(counts.answered == counts.generate && counts.generate <= 2, "no chunk was risked: {counts:?}");
    assert_eq!(tally(&service.stream(numbered(900..1500)).await), (600, 0, 0));
    assert_eq!(standings(&service), [Standing::Ready; 3]);
    assert!(second.counts().answered > 100, "{:?}", second.counts());
    assert_eq!(labelled_by(&service, "llm").await, 1500);
    service.stop().await;
}

#[actix_web::test]
async fn a_server_without_the_model_is_left_out_and_not_the_pool() {
    let right = start(&after("3ms"));
    let wrong = start(&Options { models: vec!["other:1b".to_owned()], ..after("3ms") });
    let service = service(&[&wrong, &right], &[]).await;
    let before = right.counts().generate;
    assert_eq!(tally(&service.stream(numbered(0..100)).await), (100, 0, 0));
    assert_eq!(labelled_by(&service, "llm").await, 100);
    assert_eq!((wrong.counts().generate, right.counts().generate - before), (0, 100));
    let health = service.get("/health").await.1;
    assert_eq!((&health["llm"]["state"], &health["status"]), (&json!("answers"), &json!("healthy")));
    let left_out = &health["llm"]["servers"][0];
    assert_eq!((&left_out["state"], &left_out["endpoint"]), (&json!("left_out"), &json!(wrong.url())));
    let sentence = "has no model 'llama3.1:8b' (it has other:1b)";
    assert!(left_out["problem"].as_str().unwrap().contains(sentence), "{left_out}");
    assert_eq!(metric(&service, "lnsp_llm_breaker_state", &wrong).await, "3");
    service.stop().await;
}

#[actix_web::test]
async fn a_call_that_fails_at_one_server_is_answered_by_another() {
    let (bad, good) = (start(&after("3ms")), start(&after("3ms")));
    let service = service(&[&bad, &good], &["--llm-timeout-s", "1"]).await;
    for (n, fault) in
        [Fault::Error500, Fault::Busy503, Fault::Reset, Fault::WrongName, Fault::Hang].into_iter().enumerate()
    {
        bad.set_fault(Some((fault, 1)));
        let before = bad.counts().faulty;
        let chunks = numbered(n * 30..n * 30 + 30);
        assert_eq!(tally(&service.stream(chunks).await), (30, 0, 0), "{fault:?}");
        assert!(bad.counts().faulty > before || standings(&service)[0] != Standing::Ready, "{fault:?}");
    }
    assert_eq!(labelled_by(&service, "llm").await, 150);
    service.stop().await;
}

#[actix_web::test]
async fn auto_finds_a_language_model_that_comes_later() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{free}");
    let look_for_llm = Duration::from_millis(20);
    let overrides = Overrides { encoder: Some(Scripted::factory()), look_for_llm, ..overrides() };
    let flags = ["--tmd-backend", "auto", "--llm-endpoint", &endpoint];
    let service = TestService::build(overrides, &flags).await;
    assert_eq!(tally(&service.stream(numbered(0..20)).await), (20, 0, 0));
    let local = "SELECT count(*) FROM chunks WHERE tmd_source = 'local' AND tmd_failure IS NULL";
    assert_eq!(service.database.number(local).await, 20, "no failure: there is none to ask");
    let health = service.get("/health").await.1;
    assert_eq!((&health["llm"]["state"], &health["status"]), (&json!("absent"), &json!("healthy")));
    assert!(health["tmd"]["source"].as_str().unwrap().starts_with("local:"), "{health}");
    assert!(health["llm"]["problem"].as_str().unwrap().contains("cannot be reached"), "{health}");

    let server = start(&Options { port: free, ..after("3ms") });
    until("it is found", || llm(&service).available()).await;
    let before = server.counts().generate;
    assert_eq!(tally(&service.stream(numbered(20..60)).await), (40, 0, 0));
    assert_eq!((labelled_by(&service, "llm").await, server.counts().generate - before), (40, 40));
    let health = service.get("/health").await.1;
    assert_eq!(
        (&health["llm"]["state"], &health["tmd"]["source"]),
        (&json!("answers"), &json!("llm:llama3.1:8b"))
    );
    service.stop().await;
}

#[actix_web::test]
async fn the_limit_is_found_of_a_server_that_works_on_fewer_calls_than_configured() {
    let server = start(&Options { slots: 4, ..after("20ms") });
    let service = service(&[&server], &["--max-parallel-workers", "12"]).await;
    let limit = || llm(&service).servers()[0].status.limit;
    assert_eq!(limit(), 12);
    let mut next = 0;
    while limit() > 5 {
        assert!(next < 12_000, "still {} calls at once", limit());
        assert_eq!(tally(&service.stream(numbered(next..next + 200)).await), (200, 0, 0));
        next += 200;
    }
    assert!(limit() >= 3, "{}", limit());
    assert_eq!(labelled_by(&service, "llm").await, i64::try_from(next).unwrap());
    service.stop().await;
}
