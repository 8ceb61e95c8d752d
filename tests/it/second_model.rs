//! Vectors of another model beside those in use: `lnsp reembed`, `lnsp model use`, and what a service does about it.

use crate::parity::t5_folder;
use crate::store::{draft, embedded, fresh, model, plain};
use crate::support::database::Database;
use crate::support::process::{Service, lnsp, run_beside};
use crate::support::test_service::{TestService, client, numbered, stream_to, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::chunk::OnConflict;
use lnsp_ingest::store::{AddedVectors, InsertOutcome, LackingChunk, ModelSwitched, StoreError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;

const ENGLISH: &str = "all-minilm-l6-v2";
const T5: &str = "plain-dense";

/// Chunks with texts that differ, of which every third has a question.
fn facts(range: std::ops::Range<usize>) -> String {
    const SUBJECTS: [&str; 7] =
        ["A ship", "Bread", "The moon", "A compiler", "Rain", "The orchestra", "Iron"];
    const DEEDS: [&str; 5] = ["rests", "is studied", "changes", "was found", "surprises people"];
    range
        .map(|n| {
            let text = format!("{} {} in year {n}.", SUBJECTS[n % 7], DEEDS[n % 5]);
            let question = if n % 3 == 0 { json!(format!("What about {n}?")) } else { Value::Null };
            format!("{}\n", json!({"id": format!("f{n}"), "text": text, "probe_question": question}))
        })
        .collect()
}

async fn encoder(url: &str) -> Option<String> {
    let answer = client().get(format!("{url}/health")).send().await.ok()?;
    let health: Value = answer.json().await.ok()?;
    Some(health["encoder"].as_str()?.to_owned())
}

async fn post(url: &str, path: &str, body: Value) -> Value {
    let request = client().post(format!("{url}{path}")).header("Content-Type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.json().await.unwrap()
}

/// The ids that a search gives are those that an exact comparison with the vectors in the database gives.
async fn assert_exact(url: &str, database: &Database, query: &str) {
    let embedded = post(url, "/embed", json!({"texts": [query]})).await;
    let wanted: Vec<f64> =
        embedded["embeddings"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let rows = "SELECT c.id || ' ' || array_to_string(bytea_to_real_array(v.vector), ' ') FROM chunks c \
                JOIN chunk_vectors v USING (item) WHERE v.kind = 'concept' \
                AND v.model_id = (SELECT model_id FROM change_clock)";
    let mut scores: Vec<(f64, String)> = Vec::new();
    for row in database.texts(rows).await {
        let mut words = row.split(' ');
        let id = words.next().unwrap().to_owned();
        let vector: Vec<f64> = words.map(|word| word.parse().unwrap()).collect();
        assert_eq!(vector.len(), wanted.len(), "the query is embedded by the model in use");
        scores.push((vector.iter().zip(&wanted).map(|(a, b)| a * b).sum(), id));
    }
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    let found = post(url, "/search", json!({"query": query, "top_k": 5})).await;
    for (hit, (score, _)) in found["results"].as_array().unwrap().iter().zip(&scores) {
        let (id, given) = (hit["id"].as_str().unwrap(), hit["score"].as_f64().unwrap());
        assert!((given - score).abs() < 1e-3, "{query}: {hit} instead of {score}");
        let own = scores.iter().find(|(_, other)| other == id).unwrap();
        assert!((own.0 - given).abs() < 1e-3, "{query}: {id} has {} in the database, {given} here", own.0);
    }
    assert_eq!(found["results"].as_array().unwrap().len(), 5);
}

async fn lnsp_at(arguments: &[&str], database: &Database, data: &Path) -> (Option<i32>, String, String) {
    let place = ["--database-url", database.dsn(), "--data-dir", data.to_str().unwrap()];
    let mut command = lnsp(&[arguments, &place].concat());
    command.env("LNSP_DTYPE", "f32");
    run_beside(command).await
}

const VECTORS: &str =
    "SELECT count(*) FROM chunk_vectors JOIN models USING (model_id) WHERE kind = 'concept' AND name =";

#[actix_web::test]
async fn a_store_goes_to_another_model_and_back_while_it_serves() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    let url = service.url.clone();
    assert_eq!(tally(&stream_to(url.clone(), facts(0..240)).await), (240, 0, 0));
    let t5 = t5_folder(T5);
    let t5 = t5.to_str().unwrap();
    let of_t5 = async || database.number(&format!("{VECTORS} '{T5}'")).await;

    // A part, and the rest later: chunks that come and change meanwhile are not forgotten.
    let (code, said, errors) =
        lnsp_at(&["reembed", "--model", t5, "--limit", "100"], &database, data.path()).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.contains("100 chunks embedded by plain-dense, 140 left"), "{said}");
    assert!(errors.contains("left, "), "{errors}");
    assert_eq!(of_t5().await, 100);
    assert_eq!(tally(&stream_to(url.clone(), facts(240..260)).await), (20, 0, 0));
    let one = format!(
        "SELECT id FROM chunks JOIN chunk_vectors USING (item) JOIN models USING (model_id) \
                       WHERE name = '{T5}' LIMIT 1"
    );
    let id = database.texts(&one).await.remove(0);
    let other = json!({"chunks": [{"id": id, "text": "Something else entirely."}]});
    let answer = post(&url, "/ingest?on_conflict=replace", other).await;
    assert_eq!(answer["results"][0]["status"], "replaced", "{answer}");
    assert_eq!(of_t5().await, 99, "the vector of the old text is gone");
    let (code, said, errors) = lnsp_at(&["reembed", "--model", t5], &database, data.path()).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.contains("161 chunks embedded") && said.contains("0 left"), "{said}");
    let vectors = "SELECT count(*) FROM chunk_vectors JOIN models USING (model_id) WHERE name =";
    let vectors = database.number(&format!("{vectors} '{T5}'")).await;
    assert!(said.contains(&format!("its index has {vectors} rows")), "{vectors} of both kinds: {said}");
    assert_eq!(of_t5().await, 260);
    let folders = std::fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let folders: Vec<String> = folders.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(folders.iter().filter(|name| name.starts_with("index")).count(), 4, "{folders:?}");

    // Searches know nothing of it.
    assert_eq!(encoder(&url).await.as_deref(), Some(ENGLISH));
    assert_exact(&url, &database, "vessels at sea").await;
    stream_to(url.clone(), facts(260..261)).await;
    let (code, said, _) = lnsp_at(&["model", "list"], &database, data.path()).await;
    let row = |name: &str| {
        let mut rows = said.lines().filter(|line| line.contains(name));
        let row = rows.next_back().unwrap_or_else(|| panic!("{name}: {said}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((code, row(T5)[1].as_str(), row(T5).last().unwrap().as_str()), (Some(0), "no", "1"), "{said}");
    assert_eq!((row(ENGLISH)[1].as_str(), row(ENGLISH).last().unwrap().as_str()), ("yes", "0"), "{said}");

    // The switch, under load: each chunk is stored or answered with an error.
    let load = actix_web::rt::spawn(stream_to(url.clone(), facts(1000..1400)));
    let (code, said, errors) = lnsp_at(&["model", "use", T5], &database, data.path()).await;
    assert!(code == Some(0) && said.contains("plain-dense is in use"), "{said}{errors}");
    let lines = load.await.unwrap();
    until_answered("the service has the other model", async || encoder(&url).await.as_deref() == Some(T5))
        .await;
    for line in lines.iter().filter(|line| line["status"] == "error") {
        assert_eq!(line["error"]["retryable"], true, "{line}");
    }
    for line in lines.iter().filter(|line| line["status"] == "stored") {
        let known = format!("SELECT count(*) FROM chunks WHERE id = '{}'", line["id"].as_str().unwrap());
        assert_eq!(database.number(&known).await, 1, "{line}");
    }
    let rows = database.number("SELECT count(*) FROM chunks").await;
    assert_eq!(of_t5().await, rows, "no chunk lacks a vector");
    for query in ["vessels at sea", "Something else entirely.", "What changes?"] {
        assert_exact(&url, &database, query).await;
    }
    assert_eq!(tally(&stream_to(url.clone(), facts(2000..2010)).await), (10, 0, 0));
    let (code, said, _) = run_beside(lnsp(&["verify", "--url", &url])).await;
    assert_eq!(code, Some(0), "{said}");

    // And back.
    let (code, said, errors) = lnsp_at(&["model", "use", ENGLISH], &database, data.path()).await;
    assert!(code == Some(0), "{said}{errors}");
    until_answered("the service is back", async || encoder(&url).await.as_deref() == Some(ENGLISH)).await;
    assert_exact(&url, &database, "vessels at sea").await;
    let found = post(&url, "/search", json!({"query": "Rain was found in year 2008.", "top_k": 1})).await;
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
    assert_eq!(database.number(&format!("{VECTORS} '{ENGLISH}'")).await, rows + 10);
    let (code, said, _) = run_beside(lnsp(&["verify", "--url", &url])).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(service.terminate().success());

    // An explicit setting that names another model is refused, with the way out.
    let at = [
        "serve",
        "--port",
        "0",
        "--database-url",
        database.dsn(),
        "--data-dir",
        data.path().to_str().unwrap(),
    ];
    let (code, _, said) = run_beside(lnsp(&[&at[..], &["--embedding-model", t5]].concat())).await;
    assert!(code == Some(1) && said.contains("lnsp model use"), "{said}");
}

#[actix_web::test]
async fn a_pass_that_is_stopped_goes_on_where_it_was() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..1500)).await), (1500, 0, 0));
    let (database, t5) = (&service.database, t5_folder(T5));
    let arguments = ["reembed", "--model", t5.to_str().unwrap(), "--database-url", database.dsn()];
    let mut first = lnsp(&arguments);
    let mut first =
        first.env("LNSP_DTYPE", "f32").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let of_t5 = async || database.number(&format!("{VECTORS} '{T5}'")).await;
    until_answered("it has begun", async || of_t5().await > 0).await;
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGINT).unwrap();
    // It may have been at its end.
    let code = first.wait().unwrap().code();
    let done = of_t5().await;
    assert!((code, done) == (Some(0), 1500) || code == Some(130), "{code:?} {done}");
    let nowhere = tempfile::tempdir().unwrap();
    let (code, said, errors) = lnsp_at(&arguments[..3], database, nowhere.path()).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    let left = 1500 - done;
    assert!(said.contains("0 left") && said.contains("whose data folder is not here"), "{said}");
    assert!(left >= 1000 || said.contains(&format!("{left} chunks embedded")), "{left}: {said}");
    assert_eq!(of_t5().await, 1500);
    service.stop().await;
}

#[actix_web::test]
async fn a_store_keeps_its_model_without_a_setting() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let t5 = t5_folder(T5);
    let flags = ["--database-url", database.dsn(), "--embedding-model", t5.to_str().unwrap()];
    let service = Service::start(data.path(), &flags);
    assert_eq!(tally(&stream_to(service.url.clone(), facts(0..5)).await), (5, 0, 0));
    assert!(service.terminate().success());
    let service = Service::start(data.path(), &flags[..2]);
    assert_eq!(encoder(&service.url).await.as_deref(), Some(T5));
    assert_exact(&service.url, &database, "bread").await;
    assert!(service.terminate().success());
}

fn vectors(rows: Vec<LackingChunk>) -> Vec<AddedVectors> {
    let vector = |text: Option<String>| text.map(|_| vec![0.0, 1.0, 0.0, 0.0].into());
    let added = |row: LackingChunk| AddedVectors {
        seq: row.seq,
        item: row.item,
        concept: vector(row.concept),
        question: vector(row.question),
    };
    rows.into_iter().map(added).collect()
}

#[tokio::test]
async fn a_writer_with_the_old_model_is_told_at_the_switch() {
    let (store, old, dsn) = fresh().await;
    let rows: Vec<_> = (0..10).map(|n| plain(&format!("c{n}"))).collect();
    store.insert(old, &rows).await.unwrap();
    let new = store.register_model(&model("other"), "/somewhere/other").await.unwrap();
    assert_eq!(store.model().await.unwrap().unwrap().0, old, "it is not in use");
    assert_eq!(store.count_lacking(new).await.unwrap(), 10);

    // A chunk that was replaced since it was read gets no vector of its old text.
    let lacking = store.lacking_chunks(new, (0, i64::MAX), 100).await.unwrap();
    assert_eq!(lacking.len(), 10);
    assert_eq!(lacking[0].concept.as_deref(), Some("text of c0"));
    let mut other = draft("info", "c0", "another text");
    other.on_conflict = OnConflict::Replace;
    let other = embedded(other, (1, 1, 1), &[1.0, 0.0, 0.0, 0.0]);
    let replaced = store.insert(old, &[other]).await.unwrap().outcomes;
    assert!(matches!(replaced[0], InsertOutcome::Replaced { .. }), "{replaced:?}");
    assert_eq!(store.add_vectors(new, &vectors(lacking)).await.unwrap(), 9);
    assert_eq!(store.count_lacking(new).await.unwrap(), 1);

    // More lack a vector than the lock allows for, or one was not made: nothing changes.
    let none = async |_| Ok::<_, ()>(Vec::new());
    assert_eq!(store.switch_model(new, 0, 0, none).await.unwrap(), Ok(ModelSwitched::TooManyLack));
    assert_eq!(store.switch_model(new, 0, 5, none).await.unwrap(), Ok(ModelSwitched::StillLack));
    let failing = async |_| Err::<Vec<AddedVectors>, _>("broken");
    assert_eq!(store.switch_model(new, 0, 5, failing).await.unwrap(), Err("broken"));
    store.insert(old, &[plain("between")]).await.unwrap();

    let before = store.clock_reading().await.unwrap();
    let fill = async |rows: Vec<LackingChunk>| {
        assert_eq!(rows.len(), 2, "the replaced one, and the one that came");
        Ok::<_, ()>(vectors(rows))
    };
    assert_eq!(store.switch_model(new, 0, 5, fill).await.unwrap(), Ok(ModelSwitched::InUse));
    let after = store.clock_reading().await.unwrap();
    assert_eq!((after.seq, after.model.map(|(id, _)| id)), (before.seq, Some(new)));
    assert_ne!(after.history, before.history, "the indexes compare themselves");
    assert_eq!(store.count_lacking(new).await.unwrap(), 0);

    let late = [plain("late")];
    let error = store.insert(old, &late).await.unwrap_err();
    assert!(matches!(error, StoreError::ModelChanged), "{error}");
    // So is one that would only replace a row.
    let mut other = draft("info", "c1", "a later text");
    other.on_conflict = OnConflict::Replace;
    let other = [embedded(other, (1, 1, 1), &[0.0, 1.0, 0.0, 0.0])];
    let error = store.insert(old, &other).await.unwrap_err();
    assert!(matches!(error, StoreError::ModelChanged), "{error}");
    assert_eq!(store.count_chunks().await.unwrap(), 11);
    store.insert(new, &late).await.unwrap();
    // The old tables have a row a chunk, with the vector of the model in use.
    let database = Database::at(dsn);
    let of_new = format!("SELECT count(*) FROM cpe_vectors WHERE model_id = {}", new.get());
    assert_eq!(database.number(&of_new).await, 12);
    for view in ["cpe_vectors", "cpe_entry WHERE quality_metrics IS NOT NULL"] {
        assert_eq!(database.number(&format!("SELECT count(*) FROM {view}")).await, 12, "{view}");
    }
    // A pass that goes on after the switch adds nothing: it would be a change.
    let row =
        AddedVectors { seq: after.seq + 1, item: 11, concept: Some(vec![0.0; 4].into()), question: None };
    assert_eq!(store.add_vectors(new, &[row]).await.unwrap(), 0);
    assert_eq!(store.count_lacking(old).await.unwrap(), 1);
}

#[actix_web::test]
async fn a_service_that_has_not_the_model_says_so_and_goes_on_searching() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..10)).await), (10, 0, 0));
    let store = &service.state.store;
    let own = store.model().await.unwrap().unwrap().0;
    let absent = store.register_model(&model("absent"), "/nowhere").await.unwrap();
    let fill = async |rows| Ok::<_, ()>(vectors(rows));
    assert_eq!(store.switch_model(absent, 0, 100, fill).await.unwrap(), Ok(ModelSwitched::InUse));
    let state = service.state.clone();
    let said = "put to use and is not here";
    until(said, || state.model_switch.reason().is_some_and(|reason| reason.contains(said))).await;
    let (status, ready) = service.get("/ready").await;
    assert_eq!(status, 503);
    let reason = ready["reasons"][0].as_str().unwrap();
    assert!(reason.contains("absent (") && reason.contains("lnsp model pull"), "{ready}");
    let (status, answer) = service.post_as("/ingest", "application/x-ndjson", numbered(10..11)).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("switching_model")), "{answer}");
    let query = json!({"query": "This is fact number 7.", "top_k": 1}).to_string();
    let (status, found) = service.post("/search", query).await;
    assert_eq!((status, &found["results"][0]["id"]), (200, &json!("n7")), "{found}");

    // Going back needs no new start.
    assert_eq!(store.switch_model(own, 0, 100, fill).await.unwrap(), Ok(ModelSwitched::InUse));
    until("it has the model of the store again", || state.model_switch.reason().is_none()).await;
    assert_eq!(tally(&service.stream(numbered(10..20)).await), (10, 0, 0));
    assert_eq!(service.get("/ready").await.0, 200);
    drop(state);
    service.stop().await;
}
