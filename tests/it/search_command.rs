//! `lnsp search` and `lnsp labels`, as processes of their own and without a terminal.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::TestService;
use serde_json::{Value, json};

/// A chunk with codes of its client, one with those of the classifier, and one in another dataset.
async fn service_with_chunks() -> TestService {
    let service = TestService::scripted().await;
    let law = json!({"id": "law-1", "text": "A contract binds both sides.\n\u{1b}[31mRed\u{202e}", "document_id": "code",
                     "article_title": "Contracts", "domain_code": 11, "task_code": 1, "modifier_code": 2});
    let sea = json!({"id": "sea-1", "text": "The moon moves the sea. ".repeat(30)});
    for (dataset, chunk) in [("texts", &law), ("texts", &sea), ("other", &sea)] {
        let body = json!({"chunks": [chunk], "dataset_source": dataset}).to_string();
        assert_eq!(service.post("/ingest", body).await.1["successful"], 1);
    }
    service
}

async fn search(service: &TestService, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lnsp(&["search", "--url", &service.url]);
    command.args(arguments);
    run_beside(command).await
}

#[actix_web::test]
async fn a_result_shows_id_place_and_labels_in_80_columns() {
    let service = service_with_chunks().await;
    let (code, out, complaint) = search(&service, &["--document", "code", "contract"]).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("1. ") && lines[0].ends_with("  law-1"), "{out}");
    assert_eq!(lines[1], "   dataset texts, document code, title Contracts");
    assert_eq!(lines[2], "   Law, Definition Matching, Computational (from client)");
    assert_eq!(lines[3], "   A contract binds both sides. \\u{1b}[31mRed\\u{202e}");
    assert_eq!(lines.len(), 4, "{out}");

    let (_, out, _) = search(&service, &["sea"]).await;
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert_eq!(out.matches("  sea-1").count(), 2, "{out}");
    assert!(out.contains("(from local)") && out.contains(" ..."), "{out}");
    service.stop().await;
}

#[actix_web::test]
async fn each_filter_narrows_the_search() {
    let service = service_with_chunks().await;
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--dataset", "other"], &["sea-1"]),
        (&["--dataset", "other", "--document", "code"], &[]),
        (&["--domain", "law"], &["law-1"]),
        (&["--task", "definition_matching"], &["law-1"]),
        (&["--modifier", "2", "--top-k", "9"], &["law-1"]),
        (&["--filter", "document_id=code"], &["law-1"]),
        (&["--filter", "domain=11", "--filter", "dataset_source=other"], &[]),
    ];
    for (filter, expected) in cases {
        let (code, out, complaint) = search(&service, &[filter, &["--json", "text"]].concat()).await;
        assert_eq!(code, Some(0), "{filter:?}: {complaint}");
        let answer: Value = serde_json::from_str(&out).unwrap();
        let ids: Vec<&str> =
            answer["results"].as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        assert!(!out.contains(['\u{1b}', '\u{202e}']), "a terminal may show it");
    }
    let (code, out, _) = search(&service, &["--dataset", "nothing", "text"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "nothing found\n"));
    service.stop().await;
}

#[actix_web::test]
async fn a_label_that_is_not_known_is_answered_with_those_that_are() {
    let service = TestService::scripted().await;
    let (code, _, complaint) = search(&service, &["--domain", "Sports", "text"]).await;
    assert_eq!(code, Some(1));
    for part in ["expected a code from 0 to 15", "Science, Mathematics", "Software", "'Sports'"] {
        assert!(complaint.contains(part), "{complaint}");
    }
    let (code, out, _) = run_beside(lnsp(&["labels", "domain"])).await;
    assert_eq!((code, out.lines().count()), (Some(0), 16));
    assert!(out.starts_with("domain    0  Science\n") && out.ends_with("domain   15  Software\n"), "{out}");
    let (_, out, _) = run_beside(lnsp(&["labels"])).await;
    assert_eq!(out.lines().count(), 16 + 32 + 64);
    service.stop().await;
}

#[actix_web::test]
async fn an_address_that_cannot_work_ends_at_once() {
    for url in
        ["127.0.0.1", "https://127.0.0.1:8004", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1"]
    {
        let (code, _, complaint) = run_beside(lnsp(&["search", "--url", url, "text"])).await;
        assert_eq!(code, Some(2), "{url}: {complaint}");
        assert!(
            complaint.contains("http://127.0.0.1:8004") && !complaint.contains("secret"),
            "{url}: {complaint}"
        );
    }
}
