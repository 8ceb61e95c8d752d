//! Starting: the log, one sentence for each thing that is wrong, and the commands that talk to a service.

use crate::support::database::Database;
use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp, run};
use crate::support::wait::until;
use clap::Args;
use lnsp_ingest::config::Config;
use std::fs;
use std::net::TcpListener;

/// The start must fail, with exactly one line that holds all of `words`.
fn refused(flags: &[&str], words: &[&str]) {
    let (code, out, complaint) = run(&mut lnsp(&[&["serve"], flags].concat()));
    assert!(code.is_some_and(|code| code != 0), "{flags:?} started: {out}");
    let said: Vec<&str> = complaint.lines().filter(|line| line.starts_with("lnsp: ")).collect();
    assert_eq!(said.len(), 1, "{flags:?}: {complaint}");
    assert!(words.iter().all(|word| said[0].contains(word)), "{flags:?}: {}", said[0]);
}

#[test]
fn values_that_are_not_allowed_stop_the_start_with_one_sentence() {
    refused(&["--max-parallel-workers", "0"], &["LNSP_MAX_PARALLEL_WORKERS", "'0'", "1 to 1024"]);
    refused(&["--max-parallel-workers", "abc"], &["LNSP_MAX_PARALLEL_WORKERS", "'abc'", "1 to 1024"]);
    refused(&["--device", "tpu"], &["LNSP_DEVICE", "tpu", "auto, cpu, mps or cuda:N"]);
    refused(&["--enable-parallel", "perhaps"], &["LNSP_ENABLE_PARALLEL", "perhaps", "true or false"]);
    refused(&["--tmd-backend", "oracle"], &["LNSP_TMD_BACKEND", "oracle", "auto, llm, local or router"]);
    refused(&["--tmd-mode", "half"], &["LNSP_TMD_MODE", "half", "full or hybrid"]);
    let sure = ["LNSP_TMD_FAST_CONF_MIN", "a number from 0 to 1"];
    refused(&["--tmd-fast-conf-min", "high"], &[sure[0], "high", sure[1]]);
    refused(&["--tmd-fast-conf-min", "1.5"], &[sure[0], "1.5", sure[1]]);
    refused(&["--tmd-on-failure", "guess"], &["LNSP_TMD_ON_FAILURE", "guess", "local or reject"]);
    refused(&["--llm-endpoint", "localhost"], &["LNSP_LLM_ENDPOINT", "http://localhost:11434"]);
    refused(&["--embedding-endpoint", "8767"], &["LNSP_EMBEDDING_ENDPOINT", "base address"]);
    refused(&["--llm-timeout-s", "0"], &["LNSP_LLM_TIMEOUT_S", "'0'", "1 to 600"]);
    for wrong in ["0", "86401"] {
        refused(&["--chunk-deadline-s", wrong], &["LNSP_CHUNK_DEADLINE_S", wrong, "seconds from 1 to 86400"]);
    }
    refused(&["--tmd-llm-model", " "], &["LNSP_TMD_LLM_MODEL", "llama3.1:8b"]);
    refused(&["--port", "99999"], &["LNSP_PORT", "99999"]);
    for wrong in ["http://lnsp.example", "lnsp.example/search", "lnsp example", "lnsp.example, gate", ""] {
        refused(&["--allowed-hosts", wrong], &["LNSP_ALLOWED_HOSTS", "lnsp.example:8443", "without http://"]);
    }
    let (code, _, complaint) = run(lnsp(&["serve"]).env("LNSP_MAX_PARALLEL_WORKERS", "0"));
    assert!(code == Some(2) && complaint.contains("LNSP_MAX_PARALLEL_WORKERS is '0'"), "{complaint}");
    let (code, _, complaint) = run(lnsp(&["serve"]).env("LNSP_LOG", "loud,=x"));
    assert!(code == Some(1) && complaint.starts_with("lnsp: LNSP_LOG is 'loud,=x': expected"), "{complaint}");
}

#[test]
fn empty_variables_count_as_unset() {
    let settings = Config::augment_args(clap::Command::new("serve"));
    let variables: Vec<_> = settings.get_arguments().filter_map(clap::Arg::get_env).collect();
    assert!(variables.len() > 15);
    // A port in use ends the start after the settings are read, and before anything is done.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for empty in ["", " "] {
        let mut command = lnsp(&["serve", "--port", &port]);
        for variable in variables.iter().filter(|variable| **variable != "LNSP_PORT") {
            command.env(variable, empty);
        }
        let (code, _, complaint) = run(command.env("LNSP_LOG", empty).env("PG_DSN", empty));
        let sentence = format!("lnsp: cannot listen on 127.0.0.1:{port}");
        assert!(code == Some(1) && complaint.starts_with(&sentence), "{complaint}");
    }
    // An empty DATABASE_URL is none, so the other name counts.
    let data = tempfile::tempdir().unwrap();
    let doctor = ["doctor", "--no-measure", "--port", "0", "--data-dir", data.path().to_str().unwrap()];
    let mut doctor = lnsp(&doctor);
    doctor.env("DATABASE_URL", "").env("PG_DSN", "postgres://nobody@127.0.0.1:1/nothing");
    let (_, out, complaint) = run(&mut doctor);
    assert!(out.contains("cannot connect to the database host=127.0.0.1 port=1"), "{out}{complaint}");
}

#[test]
fn a_port_in_use_is_said_before_anything_else_is_done() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = tempfile::tempdir().unwrap();
    refused(&["--port", &port, "--data-dir", data.path().to_str().unwrap()], &[&port, "LNSP_PORT"]);
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
}

#[actix_web::test]
async fn a_model_that_is_not_there_or_not_whole_stops_the_start() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let base = ["--port", "0", "--database-url", database.dsn(), "--data-dir", data.path().to_str().unwrap()];
    let with =
        |model: &str, words: &[&str]| refused(&[&base[..], &["--embedding-model", model]].concat(), words);
    with("no-such-model", &["no-such-model"]);

    let whole = crate::support::test_service::models().join("all-minilm-l6-v2");
    let part = data.path().join("part");
    fs::create_dir(&part).unwrap();
    for file in ["config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json"] {
        fs::copy(whole.join(file), part.join(file)).unwrap();
    }
    with(part.to_str().unwrap(), &["model.safetensors"]);
}

#[actix_web::test]
async fn a_store_keeps_its_model_and_refuses_another() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let flags = ["--database-url", database.dsn()];
    let service = Service::start(data.path(), &flags);
    let sample = crate::root().join("tests/data/sample.ndjson");
    let (code, out, complaint) = run(&mut lnsp(&["ingest", "--url", &service.url, sample.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{out}{complaint}");
    assert!(service.terminate().success());

    // Another model is one whose files differ: the same weights, another tokenizer.
    let (whole, other) =
        (crate::support::test_service::models().join("all-minilm-l6-v2"), data.path().join("other-model"));
    fs::create_dir_all(other.join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        fs::copy(whole.join(file), other.join(file)).unwrap();
    }
    let tokenizer = fs::read_to_string(whole.join("tokenizer.json")).unwrap();
    fs::write(other.join("tokenizer.json"), tokenizer + "\n").unwrap();
    let other = other.to_str().unwrap();
    let base = ["--port", "0", "--data-dir", data.path().to_str().unwrap(), "--embedding-model", other];
    refused(&[&base[..], &flags].concat(), &["all-minilm-l6-v2", "other-model"]);
}

#[actix_web::test]
async fn the_start_says_what_runs_and_the_commands_work() {
    let data = DataFolder::new();
    let service = Service::start(data.path(), &[]);
    for part in [
        "PostgreSQL connected",
        "Index open: 0 vectors",
        "Embedder ready: all-minilm-l6-v2, 384 dimensions",
        "TMD source: local:",
        "CPESH extraction",
        "Parallel processing: ✅ ENABLED",
        "Max parallel workers: 10",
    ] {
        assert!(service.log.contains(part), "{part} is not in:\n{}", service.log);
    }

    let sample = crate::root().join("tests/data/sample.ndjson");
    let lines = fs::read_to_string(&sample).unwrap().lines().count();
    let ingest = |file: &str| run(&mut lnsp(&["ingest", "--url", &service.url, file]));
    let (code, out, complaint) = ingest(sample.to_str().unwrap());
    assert_eq!(code, Some(0), "{complaint}");
    assert!(out.contains(&format!("{lines} stored, 0 duplicates, 0 failed")), "{out}");
    let (_, out, _) = ingest(sample.to_str().unwrap());
    assert!(out.contains(&format!("0 stored, {lines} duplicates, 0 failed")), "{out}");

    // Compressed, it is the same file: known chunk by chunk.
    let text = fs::read(&sample).unwrap();
    for (name, bytes) in
        [("sample.gz", crate::streams::gzip(&text)), ("sample.zst", crate::streams::zstd(&text))]
    {
        let path = data.path().join(name);
        fs::write(&path, bytes).unwrap();
        let (code, out, complaint) = ingest(path.to_str().unwrap());
        assert_eq!(code, Some(0), "{complaint}");
        assert!(out.contains(&format!("0 stored, {lines} duplicates, 0 failed")), "{name}: {out}");
    }

    let part = data.path().join("part.gz");
    fs::write(&part, &crate::streams::gzip(&text)[..200]).unwrap();
    let (code, _, complaint) = ingest(part.to_str().unwrap());
    assert_eq!(code, Some(2));
    assert!(complaint.contains("the gzip data ends in the middle; what was before is sent"), "{complaint}");

    let bad = data.path().join("bad.ndjson");
    fs::write(&bad, "{\"text\":\"good\"}\n\n{\"text\":\"\"}\n").unwrap();
    let (code, out, complaint) = ingest(bad.to_str().unwrap());
    assert_eq!(code, Some(1), "a chunk failed");
    assert!(out.contains("1 stored, 0 duplicates, 1 failed"), "{out}");
    assert!(complaint.contains("line 3: text_empty"), "{complaint}");

    let (code, out, _) = run(&mut lnsp(&["search", "--url", &service.url, "how do plants use light?"]));
    assert!(code == Some(0) && out.starts_with("1. ") && out.contains("(from local)"), "{out}");
    let (code, _, complaint) = run(&mut lnsp(&["search", "--url", "http://127.0.0.1:1", "x"]));
    assert!(code == Some(1) && complaint.contains("is the service running?"), "{complaint}");
    assert!(service.terminate().success());

    // A cluster of another major version.
    fs::write(data.path().join("postgres/cluster/PG_VERSION"), "9\n").unwrap();
    refused(
        &["--port", "0", "--data-dir", data.path().to_str().unwrap()],
        &["made by PostgreSQL 9", "pg_upgrade"],
    );
}

#[actix_web::test]
async fn memory_stays_flat_while_the_writer_is_held() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    // Warm: allocators and caches have what they keep.
    let warm = crate::support::test_service::client().post(format!("{}/ingest", service.url));
    let warm = warm
        .header("Content-Type", "application/x-ndjson")
        .body(crate::support::test_service::numbered(0..2000));
    assert!(warm.send().await.unwrap().status().is_success());
    let held = database.hold("SELECT seq FROM change_clock FOR UPDATE").await;

    let address = service.url.trim_start_matches("http://").to_owned();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let before = service.anonymous_memory();
    let line = format!("{{\"text\":\"{}\"}}\n", "a line of text ".repeat(500));
    let body = format!("{:x}\r\n{line}\r\n", line.len());
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut pending = head.to_owned().into_bytes();
    let (mut sent, mut quiet) = (0_u64, 0);
    until("the socket takes nothing any more", || {
        if pending.is_empty() {
            pending.extend_from_slice(body.as_bytes());
        }
        match socket.try_write(&pending) {
            Ok(written) => {
                pending.drain(..written);
                (sent, quiet) = (sent + written as u64, 0);
            }
            Err(_) => quiet += 1,
        }
        // Two milliseconds between looks: a pause of a second is no pause of the pipeline any more.
        quiet > 500
    })
    .await;
    let growth = service.anonymous_memory().saturating_sub(before);
    println!("{sent} bytes sent, {growth} bytes of growth");
    assert!(sent < 64 << 20, "{sent} bytes went in");
    assert!(growth < 128 << 20, "{growth} bytes of growth");
    held.release().await;
    drop(socket);
    service.kill();
}
