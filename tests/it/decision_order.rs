//! Who gives the codes: the client, the local classifier where it is sure, a language model, and the classifier again.
//! Each way is told by SQL and counted.

use crate::support::test_service::{Scripted, TestService, client, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::classifier::{Classification, LocalClassifier};
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

fn model() -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap()
}

async fn service(llm: &str, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", llm];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

/// Texts of whose subject the classifier is sure.
pub fn clear() -> Vec<String> {
    let of = |n| {
        format!(
            "Case {n}: the court heard the plaintiff, and the judge ruled that the contract between landlord and tenant \
             was void, because the statute requires a written lease."
        )
    };
    (0..20).map(of).collect()
}

/// Texts that say too little.
pub fn unclear() -> Vec<String> {
    (0..20).map(|n| format!("It went on over there, as {n} had.")).collect()
}

pub fn found(text: &str) -> Classification {
    LocalClassifier::embedded().unwrap().classify(text)
}

pub fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect()
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

/// The codes in the order of the texts.
async fn codes(service: &TestService, texts: &[String]) -> Vec<[i64; 3]> {
    let mut all = Vec::new();
    for text in texts {
        let mut row = [0; 3];
        for (code, column) in row.iter_mut().zip(["domain_code", "task_code", "modifier_code"]) {
            let text = text.replace('\'', "''");
            *code = service
                .database
                .number(&format!("SELECT {column}::bigint FROM chunks WHERE text = '{text}'"))
                .await;
        }
        all.push(row);
    }
    all
}

/// How many chunks are counted with these labels. All tests of this process count into one.
pub async fn counted(service: &TestService, labels: &str) -> u64 {
    let text = client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    let series = format!("lnsp_tmd_source_total{{{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
}

#[test]
fn the_texts_are_as_clear_as_they_are_called() {
    for text in clear() {
        assert!(found(&text).confidence.domain >= 0.6, "{text}: {:?}", found(&text));
    }
    for text in unclear() {
        assert!(found(&text).confidence.domain < 0.6, "{text}: {:?}", found(&text));
    }
}

#[actix_web::test]
async fn fast_first_asks_the_language_model_only_where_the_classifier_is_not_sure() {
    let llm = model();
    let service = service(llm.url(), &["--tmd-fast-first", "true"]).await;
    let before = llm.counts().generate;
    let (clear, unclear) = (clear(), unclear());
    let ways = [r#"source="local",reason="fast_first""#, r#"source="llm",reason="none""#];
    let counts = [counted(&service, ways[0]).await, counted(&service, ways[1]).await];
    assert_eq!(tally(&service.stream(lines(&clear)).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before, "the classifier was sure of each");
    assert_eq!(tally(&service.stream(lines(&unclear)).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before + 20);

    let fast = "tmd_source = 'local' AND tmd_failure = 'fast_first' AND tmd_model LIKE 'tmd-2+%' \
                AND domain_confidence >= 0.6";
    assert_eq!(count(&service, fast).await, 20);
    assert_eq!(count(&service, "tmd_source = 'llm' AND tmd_failure IS NULL").await, 20);
    for (text, codes) in clear.iter().zip(codes(&service, &clear).await) {
        let tmd = found(text).tmd;
        assert_eq!(codes, [tmd.domain(), tmd.task(), tmd.modifier()].map(i64::from));
    }
    for (way, count) in ways.into_iter().zip(counts) {
        assert!(counted(&service, way).await >= count + 20, "{way}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn the_threshold_decides_what_is_sure() {
    let llm = model();
    let service = service(llm.url(), &["--tmd-fast-first", "true", "--tmd-fast-conf-min", "1"]).await;
    let before = llm.counts().generate;
    assert_eq!(tally(&service.stream(lines(&clear())).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before + 20);
    assert_eq!(count(&service, "tmd_source = 'llm'").await, 20);
    service.stop().await;
}

#[actix_web::test]
async fn hybrid_takes_task_and_modifier_from_the_classifier_and_a_domain_that_it_is_not_sure_of_from_the_model()
 {
    let llm = model();
    let (clear, unclear) = (clear(), unclear());
    let full = service(llm.url(), &[]).await;
    assert_eq!(tally(&full.stream(lines(&unclear)).await), (20, 0, 0));
    let asked = codes(&full, &unclear).await;
    full.stop().await;

    let service = service(llm.url(), &["--tmd-mode", "HYBRID", "--tmd-fast-first", "true"]).await;
    let before = llm.counts().generate;
    assert_eq!(tally(&service.stream(lines(&clear)).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before);
    assert_eq!(tally(&service.stream(lines(&unclear)).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before + 20);

    let local = "tmd_source = 'local' AND tmd_failure = 'hybrid' AND tmd_model LIKE 'tmd-2+%'";
    assert_eq!(count(&service, local).await, 20);
    let shared = "tmd_source = 'llm' AND tmd_failure = 'hybrid' AND tmd_model LIKE 'llama3.1:8b + tmd-2+%'";
    assert_eq!(count(&service, shared).await, 20);
    let mixed = codes(&service, &unclear).await;
    let mut differ = 0;
    for ((text, mixed), asked) in unclear.iter().zip(mixed).zip(asked) {
        let local = found(text).tmd;
        assert_eq!(mixed, [asked[0], i64::from(local.task()), i64::from(local.modifier())], "{text}");
        differ += usize::from(asked[1] != mixed[1]);
    }
    assert!(differ > 0, "the model's own tasks are not those of the classifier");
    for way in [r#"source="local",reason="hybrid""#, r#"source="llm",reason="hybrid""#] {
        assert!(counted(&service, way).await >= 20, "{way}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn chunks_that_the_classifier_is_sure_of_do_not_wait_behind_calls() {
    let llm = model();
    let service = service(llm.url(), &["--tmd-fast-first", "true"]).await;
    let before = llm.counts().generate;
    llm.set_fault(Some((Fault::Hang, 1)));
    let many: Vec<String> = (0..100).map(|n| format!("It went on over there, as {n} had.")).collect();
    let waiting = actix_web::rt::spawn(stream_to(service.url.clone(), lines(&many)));
    until("ten calls hang", || llm.counts().generate == before + 10).await;
    assert_eq!(tally(&service.stream(lines(&clear())).await), (20, 0, 0));
    assert_eq!(llm.counts().generate, before + 10);

    // The server goes away: the calls that hung fail, and their chunks get the local label.
    llm.stop();
    assert_eq!(tally(&waiting.await.unwrap()), (100, 0, 0));
    assert_eq!(
        count(&service, "tmd_source = 'fallback' AND tmd_failure NOT IN ('fast_first', 'hybrid')").await,
        100
    );
    service.stop().await;
}

#[actix_web::test]
async fn codes_of_the_client_come_before_all_others() {
    let llm = model();
    for flags in [["--tmd-fast-first", "true"], ["--tmd-mode", "hybrid"]] {
        let service = service(llm.url(), &flags).await;
        let before = llm.counts().generate;
        let line = json!({"text": clear()[0], "domain_code": 3, "task_code": 4, "modifier_code": 5});
        assert_eq!(tally(&service.stream(format!("{line}\n")).await), (1, 0, 0));
        assert_eq!(llm.counts().generate, before);
        let whole = "tmd_source = 'client' AND tmd_failure IS NULL AND (domain_code, task_code, modifier_code) = (3, 4, 5)";
        assert_eq!(count(&service, whole).await, 1);
        assert!(counted(&service, r#"source="client",reason="none""#).await >= 1);
        service.stop().await;
    }
}

#[actix_web::test]
async fn a_model_without_an_answer_leads_to_the_classifier_or_to_a_rejection() {
    let llm = model();
    for mode in [["--tmd-mode", "hybrid"], ["--tmd-fast-first", "true"]] {
        llm.set_fault(None);
        let lenient = service(llm.url(), &mode).await;
        llm.set_fault(Some((Fault::Error500, 1)));
        assert_eq!(tally(&lenient.stream(lines(&unclear())).await), (20, 0, 0));
        assert_eq!(count(&lenient, "tmd_source = 'fallback' AND tmd_model LIKE 'tmd-2+%'").await, 20);
        lenient.stop().await;
        llm.set_fault(None);
        let strict = service(llm.url(), &[&mode[..], &["--tmd-on-failure", "reject"]].concat()).await;
        llm.set_fault(Some((Fault::Error500, 1)));
        let answers = strict.stream(lines(&[unclear()[0].clone(), clear()[0].clone()])).await;
        assert_eq!(tally(&answers), (1, 0, 1));
        let rejected: Vec<&Value> = answers.iter().filter(|line| line["status"] == "error").collect();
        assert_eq!(rejected[0]["error"]["code"], "llm_failed", "{rejected:?}");
        strict.stop().await;
    }
}

#[actix_web::test]
async fn without_a_model_at_the_start_the_source_is_the_classifier_and_nothing_falls_back() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let llm = format!("http://{closed}");
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let flags = ["--tmd-backend", "auto", "--llm-endpoint", &llm, "--tmd-fast-first", "true"];
    let service = TestService::build(overrides, &flags).await;
    assert_eq!(tally(&service.stream(lines(&[clear(), unclear()].concat())).await), (40, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'local' AND tmd_failure IS NULL").await, 40);
    assert_eq!(count(&service, "tmd_source = 'fallback'").await, 0);
    assert!(counted(&service, r#"source="local",reason="none""#).await >= 40);
    service.stop().await;
}

#[actix_web::test]
async fn a_client_can_restore_what_was_shared_and_only_what_fits_together() {
    let llm = model();
    let service = service(llm.url(), &["--tmd-mode", "hybrid"]).await;
    assert_eq!(tally(&service.stream(lines(&[clear(), unclear()].concat())).await), (40, 0, 0));
    let line = json!({"text": "Restored.", "domain_code": 1, "task_code": 2, "modifier_code": 3, "tmd_source": "llm",
        "tmd_model": "llama3.1:8b + tmd-2+0", "tmd_failure": "hybrid"});
    let wrong = json!({"text": "Wrong.", "domain_code": 1, "task_code": 2, "modifier_code": 3, "tmd_source": "llm",
        "tmd_model": "llama3.1:8b", "tmd_failure": "fast_first"});
    let answers = service.stream(format!("{line}\n{wrong}\n")).await;
    assert_eq!(tally(&answers), (1, 0, 1), "a model is not asked where the classifier was first");
    assert_eq!(count(&service, "tmd_source = 'llm' AND tmd_failure = 'hybrid'").await, 21);
    service.stop().await;
}
