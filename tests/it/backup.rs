//! `lnsp backup` and `lnsp restore`: the whole store as a file, made and put back while services run.

use crate::support::database::Database;
use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp, run, run_beside};
use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, stream_to, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::restore::{FUNCTIONS, TABLES, VIEWS};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn scripted() -> Overrides {
    Overrides { encoder: Some(Scripted::factory()), ..overrides() }
}

/// `lnsp` on a database: exit code, and what it complained about.
async fn on(database: &Database, arguments: &[&str]) -> (Option<i32>, String) {
    let command = lnsp(&[arguments, &["--database-url", database.dsn()]].concat());
    let (code, _, said) = run_beside(command).await;
    (code, said)
}

/// A hash of all rows up to a number of the clock, vectors included.
async fn digest(database: &Database, upto: i64) -> Vec<String> {
    let rows = "SELECT md5(string_agg(c::text || coalesce(p::text, ''), '|' ORDER BY c.item)) FROM chunks c \
                LEFT JOIN chunk_cpesh p USING (item) WHERE c.seq <=";
    let vectors = "SELECT md5(string_agg(v::text, '|' ORDER BY v.item, v.kind)) FROM chunk_vectors v \
                   JOIN chunks c USING (item) WHERE c.seq <=";
    let letters = "SELECT count(*)::text FROM dead_letters WHERE 0 <=";
    let mut digest = Vec::new();
    for part in [rows, vectors, letters] {
        digest.extend(database.texts(&format!("{part} {upto}")).await);
    }
    digest
}

async fn best(service: &TestService, text: &str) -> Value {
    let (status, mut found) = service.post("/search", json!({"query": text, "top_k": 1}).to_string()).await;
    assert_eq!(status, 200, "{found}");
    found["results"][0].take()
}

#[actix_web::test]
async fn a_backup_during_an_upload_is_whole_and_serves_elsewhere() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..200)).await), (200, 0, 0));
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(200..3000)));
    until_answered("the upload is under way", async || service.rows().await > 300).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.dump");
    let at = file.to_str().unwrap();
    let (code, said) = on(&service.database, &["backup", at]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("store.dump: "), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no .part is left");
    assert_eq!(tally(&upload.await.unwrap()), (2800, 0, 0));

    let elsewhere = Database::new().await;
    let (code, said) = on(&elsewhere, &["restore", at]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("all-minilm-l6-v2"), "{said}");
    let clock = elsewhere.number("SELECT seq FROM change_clock").await;
    assert!(clock >= 200 && said.contains("restored"), "{clock} {said}");
    // One moment: everything up to a number of the clock, and nothing after it.
    assert_eq!(elsewhere.number("SELECT count(*) FROM chunks").await, clock);
    assert_eq!(digest(&elsewhere, clock).await, digest(&service.database, clock).await);
    let ids = "SELECT store_id::text FROM change_clock";
    assert_eq!(elsewhere.texts(ids).await, service.database.texts(ids).await);

    let copy = TestService::build_at(elsewhere, scripted(), &[]).await;
    assert_eq!(copy.stored().await, clock.unsigned_abs());
    let hit = best(&copy, "This is fact number 7.").await;
    assert_eq!((&hit["id"], &hit["text"]), (&json!("n7"), &json!("This is fact number 7.")));
    assert_eq!(tally(&copy.stream(numbered(3000..3010)).await), (10, 0, 0));
    assert_eq!(service.rows().await, 3000, "the two go their own ways");
    copy.stop().await;
    service.stop().await;
}

#[actix_web::test]
async fn an_older_backup_takes_the_place_of_a_store_that_runs() {
    let service = Arc::new(TestService::scripted().await);
    assert_eq!(tally(&service.stream(numbered(0..60)).await), (60, 0, 0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.dump");
    let at = file.to_str().unwrap().to_owned();
    assert_eq!(on(&service.database, &["backup", &at]).await.0, Some(0));
    let before = digest(&service.database, 60).await;

    service.database.run("DELETE FROM chunks WHERE id IN ('n0', 'n1', 'n2')").await;
    let chunk = |n: i32| json!({"id": format!("n{n}"), "text": format!("Other words {n}.")});
    let chunks: Vec<Value> = (10..30).map(chunk).collect();
    let (_, answer) =
        service.post("/ingest?on_conflict=replace", json!({"chunks": chunks}).to_string()).await;
    assert_eq!(answer["results"][19]["status"], "replaced", "{answer}");
    // They have the items that other chunks get after the restore.
    service.stream(numbered(100..160)).await;
    until("the index follows the deletion", || service.state.index.len() == 117).await;

    let (code, said) = on(&service.database, &["restore", &at]).await;
    assert!(code == Some(1) && said.contains("--replace") && said.contains("nothing was changed"), "{said}");
    assert_eq!(service.rows().await, 117);

    // Meanwhile it is searched and written.
    let done = Arc::new(AtomicBool::new(false));
    let (reader, ended) = (service.clone(), done.clone());
    let searches = actix_web::rt::spawn(async move {
        let mut seen = 0;
        while !ended.load(Ordering::SeqCst) {
            for text in [
                "This is fact number 5.",
                "Other words 12.",
                "This is fact number 12.",
                "This is fact number 130.",
            ] {
                let query = json!({"query": text, "top_k": 3}).to_string();
                let (status, found) = reader.post("/search", query).await;
                // While the tables are replaced, it may be told to come again.
                if status != 200 {
                    assert!(status >= 500, "{found}");
                    continue;
                }
                for hit in found["results"].as_array().unwrap() {
                    let is_the_text = hit["score"].as_f64().unwrap() > 0.999;
                    assert_eq!(is_the_text, hit["text"] == text, "{text}: {hit}");
                    seen += 1;
                }
            }
        }
        seen
    });
    let (writer, ended) = (service.clone(), done.clone());
    let writes = actix_web::rt::spawn(async move {
        let mut sent = 1000;
        while !ended.load(Ordering::SeqCst) {
            let answers = writer.stream(numbered(sent..sent + 5)).await;
            assert_eq!(answers.len(), 6, "each is answered: {answers:?}");
            sent += 5;
        }
        sent
    });
    let (code, said) = on(&service.database, &["restore", "--replace", &at]).await;
    assert_eq!(code, Some(0), "{said}");
    // What is answered from here on is stored.
    assert_eq!(tally(&service.stream(numbered(5000..5005)).await), (5, 0, 0));
    let hits = best(&service, "This is fact number 5003.").await;
    assert_eq!(hits["id"], "n5003");
    done.store(true, Ordering::SeqCst);
    assert!(searches.await.unwrap() > 0);
    writes.await.unwrap();

    assert_eq!(digest(&service.database, 60).await, before);
    let differences = async || {
        let (_, answer) = service.post("/verify", "{}").await;
        ["missing", "extra", "stale", "damaged"]
            .iter()
            .filter_map(|what| answer["concept"][*what].as_u64())
            .sum::<u64>()
    };
    until_answered("the index follows the other history", async || differences().await == 0).await;
    service.stored().await;
    assert_eq!(best(&service, "This is fact number 12.").await["text"], "This is fact number 12.");
    assert_ne!(best(&service, "Other words 12.").await["text"], "Other words 12.");
    Arc::into_inner(service).unwrap().stop().await;
}

#[actix_web::test]
async fn the_backup_of_another_store_has_the_service_start_anew_in_its_process() {
    let other = TestService::scripted().await;
    assert_eq!(tally(&other.stream(numbered(0..30)).await), (30, 0, 0));
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("other.dump");
    let at = at.to_str().unwrap();
    assert_eq!(on(&other.database, &["backup", at]).await.0, Some(0));
    let id = other.state.store.store_id().to_string();
    other.stop().await;

    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    assert_eq!(tally(&stream_to(service.url.clone(), numbered(100..110)).await), (10, 0, 0));
    let (code, said) = on(&database, &["restore", at, "--replace"]).await;
    assert!(code == Some(0) && said.contains("30 chunks restored"), "{said}");
    let store = async || {
        // The connection may be one that ends.
        let stats = client().get(format!("{}/stats", service.url)).send().await.ok()?;
        Some(stats.json::<Value>().await.ok()?["store"].clone())
    };
    until_answered("it has the other store", async || store().await == Some(json!(id))).await;
    let (code, said, _) = run_beside(lnsp(&["verify", "--url", &service.url])).await;
    assert!(code == Some(0) && said.contains("30 rows, 0 missing"), "{said}");
    assert_eq!(tally(&stream_to(service.url.clone(), numbered(20..40)).await), (10, 10, 0));
    assert!(service.terminate().success());
}

#[actix_web::test]
async fn a_backup_of_an_earlier_version_is_brought_up_to_date() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..5)).await), (5, 0, 0));
    let (database, newer) = (service.database.clone(), Database::new().await);
    service.stop().await;
    let migration = crate::root().join("migrations/2026-12-03-000001_model_switch");
    database.run(&fs::read_to_string(migration.join("down.sql")).unwrap()).await;
    database.run("DELETE FROM __diesel_schema_migrations WHERE version = '20261203000001'").await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("earlier.dump");
    let at = at.to_str().unwrap();
    assert_eq!(on(&database, &["backup", at]).await.0, Some(0));
    let (code, said) = on(&newer, &["restore", at]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        newer.number("SELECT count(*) FROM chunks WHERE (SELECT history IS NULL FROM change_clock)").await,
        5
    );
    let service = TestService::build_at(newer, scripted(), &[]).await;
    assert_eq!(service.stored().await, 5);
    service.stop().await;
}

#[actix_web::test]
async fn what_cannot_be_restored_is_refused_in_one_sentence_and_changes_nothing() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..50)).await), (50, 0, 0));
    let (database, folder) = (&service.database, tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(on(database, &["backup", &path("good")]).await.0, Some(0));

    fs::write(path("text"), "no dump at all").unwrap();
    let bytes = fs::read(path("good")).unwrap();
    fs::write(path("half"), &bytes[..bytes.len() * 9 / 10]).unwrap();
    let other = database.elsewhere("postgres");
    let dump = |database: &Database, name: &str| {
        let mut command = std::process::Command::new("pg_dump");
        command.envs(database.address().libpq_variables()).args(["-Fc", "-f", &path(name)]);
        assert!(command.status().unwrap().success());
    };
    dump(&other, "other");
    let newer = Database::new().await;
    newer.run("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')").await;
    dump(&newer, "newer");
    let empty = Database::new().await;
    for (name, words) in [
        ("missing", "No such file"),
        ("text", "is no backup, or a damaged one"),
        ("half", "is no backup, or a damaged one"),
        ("other", "is a dump of another database: it has no table chunks"),
        ("newer", "has the migration 29990101000000, which this program does not know"),
    ] {
        for (database, flags) in [(database, &["--replace"][..]), (&empty, &[])] {
            let (code, said) = on(database, &[&["restore", &path(name)], flags].concat()).await;
            assert!(code == Some(1) && said.contains(words), "{name}: {said}");
            assert!(said.starts_with("lnsp: ") && said.lines().count() == 1, "{said}");
        }
    }
    let (code, said) = on(database, &["restore", &path("good")]).await;
    assert!(code == Some(1) && said.contains("add --replace"), "{said}");
    assert_eq!(service.stored().await, 50);
    assert_eq!(empty.number("SELECT count(*) FROM chunks").await, 0);

    // Onto a folder, from nothing, into nothing.
    let (code, said) = on(database, &["backup", folder.path().to_str().unwrap()]).await;
    assert!(code == Some(1) && said.contains("is not a file"), "{said}");
    let nothing = folder.path().join("nothing");
    let (code, _, said) = run(&mut lnsp(&["backup", &path("b"), "--data-dir", nothing.to_str().unwrap()]));
    assert!(code == Some(1) && said.contains("there is no database in"), "{said}");
    let (code, said) = on(&other, &["backup", &path("b")]).await;
    assert!(code == Some(1) && said.contains("has no tables of this version"), "{said}");
    assert!(!Path::new(&path("b")).exists() && !Path::new(&path("b.part")).exists());

    // The programs of PostgreSQL are missing, or of an earlier version.
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let at = programs.to_str().unwrap();
    let (code, said) = on(database, &["backup", &path("b"), "--programs", at]).await;
    assert!(code == Some(1) && said.contains("found: none"), "{said}");
    for name in ["pg_dump", "pg_restore", "psql"] {
        let script = format!("#!/bin/sh\necho '{name} (PostgreSQL) 9.6.24'\n");
        fs::write(programs.join(name), script).unwrap();
        fs::set_permissions(programs.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let (code, said) = on(database, &["restore", &path("good"), "--replace", "--programs", at]).await;
    assert!(code == Some(1) && said.contains("found: 9.6.24") && said.contains("--programs"), "{said}");
    assert_eq!(service.stored().await, 50);
    service.stop().await;
}

#[actix_web::test]
async fn no_password_is_in_an_argument() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let said_to = folder.path().join("arguments");
    for name in ["pg_dump", "pg_restore", "psql"] {
        let file = said_to.display();
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo '{name} (PostgreSQL) 99.1' && exit\n\
             echo \"$0 $* / $PGPASSWORD / $PGDATABASE\" > {file}\nexit 1\n"
        );
        let path = folder.path().join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let file = folder.path().join("b");
    let address = format!("{} password=s3cret", database.dsn());
    let (code, _, said) = run_beside(lnsp(&[
        "backup",
        file.to_str().unwrap(),
        "--programs",
        folder.path().to_str().unwrap(),
        "--database-url",
        &address,
    ]))
    .await;
    assert!(code == Some(1) && said.contains("pg_dump made no backup") && !said.contains("s3cret"), "{said}");
    let heard = fs::read_to_string(said_to).unwrap();
    let (arguments, environment) = heard.split_once(" / ").unwrap();
    assert!(!arguments.contains("s3cret") && environment.starts_with("s3cret / lnsp_test_"), "{heard}");
}

#[actix_web::test]
async fn an_own_server_is_started_for_as_long_as_it_takes() {
    let source = TestService::scripted().await;
    assert_eq!(tally(&source.stream(numbered(0..20)).await), (20, 0, 0));
    let files = tempfile::tempdir().unwrap();
    let [first, second] =
        ["first", "second"].map(|name| files.path().join(name).to_str().unwrap().to_owned());
    assert_eq!(on(&source.database, &["backup", &first]).await.0, Some(0));
    source.stop().await;

    let data = DataFolder::with_cluster();
    let at = data.path().to_str().unwrap();
    let (code, _, said) = run_beside(lnsp(&["restore", &first, "--data-dir", at])).await;
    assert!(code == Some(0) && said.contains("20 chunks restored"), "{said}");
    assert!(!data.path().join("postgres/cluster/postmaster.pid").exists(), "it is stopped again");
    let (code, _, said) = run_beside(lnsp(&["backup", &second, "--data-dir", at])).await;
    assert!(code == Some(0) && said.contains("second: "), "{said}");

    // A restored store serves at once.
    let service = Service::start(data.path(), &[]);
    let (code, said, _) = run_beside(lnsp(&["verify", "--url", &service.url])).await;
    assert!(code == Some(0) && said.contains("20 rows, 0 missing"), "{said}");
    let standard_output = lnsp(&["backup", "-", "--data-dir", at]).output().unwrap();
    assert!(standard_output.status.success() && standard_output.stdout.starts_with(b"PGDMP"));
    assert!(service.terminate().success());
}

#[actix_web::test]
async fn the_names_that_a_restore_drops_are_all_that_the_migrations_make() {
    let database = Database::new().await;
    let of_kind = async |kinds: &str| -> BTreeSet<String> {
        let query = format!(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ({kinds})"
        );
        database.texts(&query).await.into_iter().collect()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(of_kind("'r', 'p'").await, names(&TABLES));
    assert_eq!(of_kind("'v', 'm'").await, names(&VIEWS));
    let functions = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace \
                     AND proname !~ '^diesel_'";
    assert_eq!(database.texts(functions).await.into_iter().collect::<BTreeSet<_>>(), names(&FUNCTIONS));
    let others = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                  AND relkind NOT IN ('r', 'v', 'i') \
                  AND oid NOT IN (SELECT objid FROM pg_depend WHERE deptype IN ('i', 'a'))";
    assert_eq!(database.number(others).await, 0, "sequences go with their tables");
}
