//! A file that is imported every night, as people do: the same rows, some of them edited, some gone from the store.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::TestService;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Tickets as a CSV file; `edited` names those with another body.
fn tickets(folder: &Path, count: usize, edited: &[usize]) -> PathBuf {
    let body = |n: usize| match edited.contains(&n) {
        true => format!("\"Ticket {n} was edited, and\nis solved.\""),
        false => format!("Ticket {n} is open."),
    };
    let rows: String = (1..=count).map(|n| format!("T-{n},{},queue-{}\n", body(n), n % 3)).collect();
    let file = folder.join("tickets.csv");
    std::fs::write(&file, format!("key,body,queue\n{rows}")).unwrap();
    file
}

/// Sends the file; the exit code and what was printed.
async fn send(service: &TestService, file: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = lnsp(&["ingest", "--url", &service.url, "--dataset", "tickets"]);
    command.args(["--text", "body", "--id", "key"]).args(more).arg(file);
    let (code, out, complaint) = run_beside(command).await;
    (code, out + &complaint)
}

/// The ids and texts that a search finds.
async fn found(service: &TestService, top_k: usize) -> Vec<(String, String)> {
    let body =
        json!({"query": "ticket", "top_k": top_k, "filter": {"dataset_source": "tickets"}}).to_string();
    let (status, answer) = service.post("/search", body).await;
    assert_eq!(status, 200, "{answer}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let results = answer["results"].as_array().unwrap();
    let mut found: Vec<_> = results.iter().map(|hit| (text(&hit["id"]), text(&hit["text"]))).collect();
    found.sort();
    found
}

#[actix_web::test]
async fn an_edited_row_is_named_and_replaced_on_request() {
    let (service, folder) = (TestService::scripted().await, tempfile::tempdir().unwrap());
    let (code, said) = send(&service, &tickets(folder.path(), 300, &[]), &[]).await;
    assert!(code == Some(0) && said.contains("300 stored"), "{said}");

    let file = tickets(folder.path(), 300, &[7, 250]);
    let (code, said) = send(&service, &file, &[]).await;
    assert_eq!(code, Some(1), "two rows need a decision: {said}");
    assert!(said.contains("298 duplicates, 2 failed") && said.contains("id_conflict"), "{said}");

    let (code, said) = send(&service, &file, &["--on-conflict", "replace"]).await;
    assert!(code == Some(0) && said.contains("2 replaced, 298 duplicates"), "{said}");
    let (code, said) = send(&service, &file, &["--on-conflict", "replace"]).await;
    assert!(code == Some(0) && said.contains("300 duplicates"), "{said}");

    let found = found(&service, 1000).await;
    let edited: Vec<_> =
        found.iter().filter(|(_, text)| text.contains("edited")).map(|(id, _)| &**id).collect();
    assert_eq!((found.len(), edited), (300, vec!["T-250", "T-7"]), "the old texts are not found");
    service.stop().await;
}

#[actix_web::test]
async fn rows_that_were_deleted_are_stored_again_and_no_others() {
    let (service, folder) = (TestService::scripted().await, tempfile::tempdir().unwrap());
    let file = tickets(folder.path(), 300, &[]);
    assert_eq!(send(&service, &file, &[]).await.0, Some(0));
    let before = found(&service, 1000).await;

    service.database.run("DELETE FROM chunks WHERE id LIKE 'T-1%'").await;
    let gone = 1 + 10 + 100;
    assert_eq!(found(&service, 1000).await.len(), 300 - gone, "no row that is gone is found");
    let (code, said) = send(&service, &file, &[]).await;
    assert!(code == Some(0) && said.contains(&format!("{gone} stored, {} duplicates", 300 - gone)), "{said}");

    let delete =
        ["delete", "--url", &service.url, "--dataset", "tickets", "--where", "queue=queue-0", "--yes"];
    let (code, out, complaint) = run_beside(lnsp(&delete)).await;
    assert!(code == Some(0) && out.contains("deleted: 100 chunks"), "{out}{complaint}");
    assert_eq!(found(&service, 1000).await.len(), 200, "at once");
    let (code, said) = send(&service, &file, &[]).await;
    assert!(code == Some(0) && said.contains("100 stored, 200 duplicates"), "{said}");
    assert_eq!(found(&service, 1000).await, before);
    service.stop().await;
}
