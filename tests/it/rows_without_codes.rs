//! What becomes of rows without codes: they come out of an export and go in again as they were, are replaced, sent again
//! from dead letters and changed by SQL, and get codes later.

use crate::decision_order::{lines, unclear};
use crate::export::exported;
use crate::labels::{NOT_ASKED, count, mixed, model, send, service, stream, with_llm};
use crate::support::postgres::connect;
use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{Scripted, TestService, overrides, tally};
use crate::support::wait::{until, until_answered};
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::llm::Llm;
use lnsp_ingest::simulated_llm::Fault;
use lnsp_ingest::store::Dsn;
use serde_json::json;
use std::fs;

/// The three kinds of rows without codes, as the documentation tells them apart.
const KINDS: &str = "SELECT tmd_source || ' ' || count(*) FROM chunks WHERE domain_code IS NULL GROUP BY tmd_source ORDER BY 1";

async fn codes_of(service: &TestService, id: &str) -> String {
    let codes = "SELECT concat_ws(' ', tmd_source, domain_code, task_code, modifier_code) FROM chunks";
    service.database.texts(&format!("{codes} WHERE id = '{id}'")).await.remove(0)
}

#[actix_web::test]
async fn rows_without_codes_get_them_later_each_kind_by_its_name() {
    let llm = model();
    let service = with_llm(&llm, &["--tmd-local-min-confidence", "1"]).await;
    let facts = |prefix: &str, range: std::ops::Range<usize>| {
        let line = |n| {
            format!("{}\n", json!({"id": format!("{prefix}{n}"), "text": format!("{prefix}: thing {n}.")}))
        };
        range.map(line).collect::<String>()
    };
    assert_eq!(tally(&stream(&service, "labels=none", facts("none", 0..7)).await), (7, 0, 0));
    llm.set_fault(Some((Fault::Error500, 1)));
    assert_eq!(tally(&service.stream(facts("fallback", 0..5)).await), (5, 0, 0));
    llm.set_fault(None);
    let local = json!({"id": "local", "text": "Restored.", "tmd_source": "local", "tmd_model": "m",
                       "tmd_confidence": {"domain": 0.1, "task": 0.1, "modifier": 0.1}});
    assert_eq!(tally(&service.stream(format!("{local}\n")).await), (1, 0, 0));
    assert_eq!(service.database.texts(KINDS).await, ["fallback 5", "local 1", "none 7"]);

    let resting = || service.state.llm.as_ref().is_none_or(Llm::is_resting);
    until("a probe finds that it answers again", || !resting()).await;
    let mut left = vec!["fallback 5", "local 1", "none 7"];
    for (source, changed) in [("none", "7 chunks"), ("fallback", "5 chunks"), ("local", "1 chunk")] {
        let (code, said, complaint) =
            run_beside(lnsp(&["retag", "--url", &service.url, "--source", source])).await;
        assert!(code == Some(0) && said.starts_with(&format!("{changed} now ha")), "{said}{complaint}");
        left.retain(|kind| !kind.starts_with(source));
        assert_eq!(service.database.texts(KINDS).await, left);
    }
    assert_eq!(count(&service, "tmd_source = 'llm' AND domain_code IS NOT NULL").await, 13);
    service.stop().await;

    // After an outage the service does it by itself.
    llm.set_fault(Some((Fault::Busy503, 1)));
    let service = with_llm(&llm, &["--tmd-local-min-confidence", "1", "--tmd-repair", "true"]).await;
    assert_eq!(tally(&service.stream(facts("repaired", 0..20)).await), (20, 0, 0));
    assert_eq!(tally(&stream(&service, "labels=client", facts("left", 0..3)).await), (3, 0, 0));
    assert_eq!(service.database.texts(KINDS).await, ["fallback 20", "none 3"]);
    llm.set_fault(None);
    let database = &service.database;
    let unrepaired = "SELECT count(*) FROM chunks WHERE tmd_source = 'fallback'";
    until_answered("all are repaired", async || database.number(unrepaired).await == 0).await;
    assert_eq!(service.database.texts(KINDS).await, ["none 3"], "these are not to have any");
    service.stop().await;
}

#[actix_web::test]
async fn what_is_exported_comes_back_without_codes_whatever_the_setting() {
    let service = service(&["--tmd-local-min-confidence", "0.6"]).await;
    assert_eq!(tally(&stream(&service, "labels=client", mixed("given")).await), (20, 0, 0));
    assert_eq!(tally(&service.stream(lines(&unclear())).await), (20, 0, 0));
    let fallback = json!({"id": "fallback", "text": "Restored.", "tmd_source": "fallback", "tmd_model": "m",
                          "tmd_failure": "timeout", "tmd_took_us": 5,
                          "tmd_confidence": {"domain": 0.1, "task": 0.2, "modifier": 0.3}});
    assert_eq!(tally(&service.stream(format!("{fallback}\n")).await), (1, 0, 0));
    let rows = "SELECT to_jsonb(c) - 'item' - 'seq' - 'created_at' FROM chunks c ORDER BY dataset_source, id";
    let before = service.database.texts(rows).await;
    assert_eq!(service.database.texts(KINDS).await, ["fallback 1", "local 20", "none 10"]);

    let (_folder, file) = exported(&["--url", &service.url], "all.ndjson").await;
    let line = "SELECT line || jsonb_build_object('dataset_source', dataset_source, 'id', id) FROM chunk_lines \
                JOIN chunks USING (seq, dataset_source)";
    let of_view: String = service.database.texts(line).await.iter().map(|line| format!("{line}\n")).collect();
    for (what, text) in [("export", fs::read_to_string(&file).unwrap()), ("chunk_lines", of_view)] {
        for setting in ["all", "client"] {
            let query = format!("labels={setting}");
            let known = stream(&service, &query, text.clone()).await;
            assert_eq!(tally(&known), (0, 41, 0), "{what} {setting}");
            assert!(known.iter().all(|line| line.get("differs").is_none()), "{what} {setting}");
            service.database.run("DELETE FROM chunks").await;
            assert_eq!(tally(&stream(&service, &query, text.clone()).await), (41, 0, 0), "{what} {setting}");
            let after = service.database.texts(rows).await;
            if what == "export" {
                assert_eq!(after, before, "{setting}");
            }
            assert_eq!(service.database.texts(KINDS).await, ["fallback 1", "local 20", "none 10"]);
        }
    }
    // With none, there are none.
    service.database.run("DELETE FROM chunks").await;
    assert_eq!(tally(&stream(&service, "labels=none", fs::read_to_string(&file).unwrap()).await), (41, 0, 0));
    assert_eq!(count(&service, NOT_ASKED).await, 41);

    // A line that contradicts itself is refused.
    let coded =
        json!({"text": "x", "tmd_source": "none", "domain_code": 1, "task_code": 2, "modifier_code": 3});
    for line in [
        coded,
        json!({"text": "x", "tmd_source": "none", "task_code": 2}),
        json!({"text": "x", "tmd_source": "none", "tmd_model": "m"}),
        json!({"text": "x", "tmd_source": "local", "tmd_model": "m"}),
        json!({"text": "x", "tmd_source": "llm", "tmd_model": "m",
               "tmd_confidence": {"domain": 0.1, "task": 0.2, "modifier": 0.3}}),
    ] {
        let answer = service.stream(format!("{line}\n")).await;
        assert_eq!(answer[0]["error"]["code"], "invalid_provenance", "{line}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn a_replacement_with_codes_gives_them_and_one_without_leaves_what_is_there() {
    let service = service(&["--labels", "client"]).await;
    let chunk = json!({"id": "a", "text": "The text.", "metadata": {"version": 1}});
    assert_eq!(send(&service, json!({}), chunk.clone()).await["status"], "stored");
    let replace = json!({"on_conflict": "replace"});
    assert_eq!(send(&service, replace.clone(), chunk.clone()).await["status"], "duplicate");
    let mut coded = chunk.clone();
    (coded["domain_code"], coded["task_code"], coded["modifier_code"]) = (json!(4), json!(5), json!(6));
    assert_eq!(send(&service, replace.clone(), coded.clone()).await["status"], "replaced");
    assert_eq!(codes_of(&service, "a").await, "client 4 5 6");
    // Without codes it equals any, and with other metadata the codes stay: the text is the same.
    assert_eq!(send(&service, replace.clone(), chunk.clone()).await["status"], "duplicate");
    let mut other = chunk.clone();
    other["metadata"]["version"] = json!(2);
    assert_eq!(send(&service, replace.clone(), other).await["status"], "replaced");
    assert_eq!(codes_of(&service, "a").await, "client 4 5 6");
    // With another text they are gone.
    let mut other = chunk;
    other["text"] = json!("Another text.");
    let result = send(&service, replace, other).await;
    assert_eq!((&result["status"], &result["tmd_source"]), (&json!("replaced"), &json!("none")), "{result}");
    assert_eq!(codes_of(&service, "a").await, "none");
    service.stop().await;
}

#[actix_web::test]
async fn a_dead_letter_keeps_which_codes_were_asked_for() {
    const REFUSE: &str = "ALTER TABLE chunks ADD CONSTRAINT refused CHECK (text NOT LIKE 'Refused%')";
    let overrides = || Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = service(&["--labels", "client"]).await;
    service.database.run(REFUSE).await;
    let refused = |id: &str| {
        let line = json!({"id": id, "text": format!("Refused {id}."), "domain_code": 1, "task_code": 2, "modifier_code": 3});
        let bare = json!({"id": format!("bare-{id}"), "text": format!("Refused, bare {id}.")});
        format!("{line}\n{bare}\n")
    };
    assert_eq!(tally(&service.stream(refused("default")).await), (0, 0, 2));
    for labels in ["all", "client", "none"] {
        assert_eq!(tally(&stream(&service, &format!("labels={labels}"), refused(labels)).await), (0, 0, 2));
    }
    let database = service.database.clone();
    service.stop().await;

    // The service that sends them again has another default.
    for other in ["none", "all"] {
        let service = TestService::build_at(database.clone(), overrides(), &["--labels", other]).await;
        let replay = || run_beside(lnsp(&["replay", "--url", &service.url]));
        if other == "none" {
            let (code, said, _) = replay().await;
            assert_eq!(
                (code, said.trim()),
                (Some(1), "8 sent again: 0 stored, 0 duplicates, 8 failed again")
            );
            service.stop().await;
            database.run("ALTER TABLE chunks DROP CONSTRAINT refused").await;
            continue;
        }
        let (code, said, complaint) = replay().await;
        let expected = (Some(0), "8 sent again: 8 stored, 0 duplicates, 0 failed again", "");
        assert_eq!((code, said.trim(), complaint.as_str()), expected);
        let sources = "SELECT id || ' ' || tmd_source FROM chunks ORDER BY id COLLATE \"C\"";
        let expected = [
            "all client",
            "bare-all local",
            "bare-client none",
            "bare-default none",
            "bare-none none",
            "client client",
            "default client",
            "none none",
        ];
        assert_eq!(service.database.texts(sources).await, expected);
        service.stop().await;
    }
}

#[actix_web::test]
async fn sql_takes_codes_away_and_gives_them() {
    let service = service(&[]).await;
    assert_eq!(tally(&service.stream(mixed("sql")).await), (20, 0, 0));
    let clock = service.state.store.clock().await.unwrap();
    let taken = "SET domain_code = NULL, task_code = NULL, modifier_code = NULL";
    service.database.run(&format!("UPDATE chunks {taken} WHERE id IN ('sql0', 'sql1')")).await;
    service.database.run(&format!("UPDATE cpe_entry {taken} WHERE mission_text = 'sql: fact 2.'")).await;
    assert_eq!(count(&service, NOT_ASKED).await, 3);
    service
        .database
        .run("UPDATE chunks SET domain_code = 1, task_code = 2, modifier_code = 3 WHERE id = 'sql1'")
        .await;
    assert_eq!(codes_of(&service, "sql1").await, "client 1 2 3");
    service.database.run("UPDATE cpe_entry SET domain_code = 7 WHERE mission_text = 'sql: fact 3.'").await;
    assert_eq!(count(&service, &format!("seq > {clock}")).await, 4, "each change has a number");

    let address: Dsn = service.database.dsn().parse().unwrap();
    for (statement, part) in [
        ("UPDATE chunks SET domain_code = NULL WHERE id = 'sql4'", "all three are NULL"),
        ("UPDATE cpe_entry SET task_code = NULL WHERE mission_text = 'sql: fact 4.'", "all three are NULL"),
        ("UPDATE chunks SET domain_code = 1 WHERE id = 'sql0'", "all three are NULL"),
        ("UPDATE chunks SET tmd_source = 'none' WHERE id = 'sql4'", "chunks_codes_check"),
        ("UPDATE chunks SET tmd_source = 'client' WHERE id = 'sql0'", "chunks_codes_check"),
        ("UPDATE chunks SET tmd_model = 'm' WHERE id = 'sql0'", "chunks_codes_check"),
        ("UPDATE chunks SET domain_confidence = 0.5 WHERE id = 'sql0'", "chunks_codes_check"),
        ("UPDATE chunks SET tmd_failure = 'timeout' WHERE id = 'sql0'", "chunks_tmd_failure_check"),
    ] {
        let error = connect(&address).await.batch_execute(statement).await.unwrap_err().to_string();
        assert!(error.contains(part), "{statement}: {error}");
    }
    let functions = "SELECT num_nulls(tmd_lane_index(d, d, d), tmd_bits_canonical(d, d, d), tmd_16d_ingest(d, d, d), \
                     tmd_16d_canonical(d, d, d)) FROM (SELECT NULL::integer AS d) AS nothing";
    assert_eq!(service.database.number(functions).await, 4);

    // An earlier version finds codes in every row.
    let folder = crate::root().join("migrations/2026-12-01-000004_no_codes");
    let database = service.database.clone();
    service.stop().await;
    database.run(&fs::read_to_string(folder.join("down.sql")).unwrap()).await;
    let zeros = "SELECT count(*) FROM chunks WHERE (domain_code, task_code, modifier_code, tmd_source) = (0, 0, 0, 'local')";
    assert_eq!(database.number(&format!("{zeros} AND id IN ('sql0', 'sql2')")).await, 2);
    database.run(&fs::read_to_string(folder.join("up.sql")).unwrap()).await;
    assert_eq!(database.number("SELECT count(*) FROM chunks WHERE domain_code IS NOT NULL").await, 20);
}
