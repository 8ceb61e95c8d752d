//! `lnsp bench` as a process: its report, its refusals, and that it leaves nothing behind. No test looks at a time.

use crate::support::process::{lnsp, run};
use crate::support::wait::until;
use lnsp_ingest::simulated_llm::{Latency, Options, SimulatedLlm};
use serde_json::json;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// `lnsp bench`, with a folder of its own for what it makes.
fn bench(flags: &[&str]) -> (Command, TempDir) {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let mut command = lnsp(&[&["bench", "--rounds", "1"], flags].concat());
    command.env("TMPDIR", folder.path()).env("LNSP_DTYPE", "f32");
    (command, folder)
}

/// What is left of the services and their PostgreSQL.
fn left(folder: &TempDir) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The cells of the rows that begin with `name`, one table after the other.
fn rows<'a>(report: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let tables = report.lines().filter(|line| line.starts_with('│'));
    let rows = tables.map(|line| line.trim_matches('│').split('┆').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row[0] == name).map(|row| row[1..].to_vec()).collect()
}

#[test]
fn the_report_says_what_was_counted_and_measured() {
    let (mut command, folder) = bench(&["--llm", "simulated:20ms", "--workers", "5"]);
    // Settings that the services must not take over.
    command
        .env("DATABASE_URL", "postgres://nowhere.invalid/x")
        .env("LNSP_PORT", "1")
        .env("LNSP_TMD_BACKEND", "local");
    let (code, report, progress) = run(&mut command);
    assert_eq!(code, Some(0), "{report}{progress}");
    assert_eq!(left(&folder), Vec::<std::path::PathBuf>::new());
    assert!(
        progress.contains("starting the sequential service") && !report.contains("starting"),
        "{progress}"
    );

    assert!(report.contains("10 sentences, 1 round, 5 workers"), "{report}");
    assert!(report.contains("simulated, 20ms a call"), "{report}");
    for (name, both) in [("Total chunks", "10"), ("Successful", "10"), ("Failed", "0"), ("LLM calls", "10")] {
        assert_eq!(rows(&report, name), [[both, both]], "{report}");
    }
    for name in ["Server time", "Client time", "Per chunk"] {
        let cells = rows(&report, name).concat();
        assert!(cells.len() == 2 && cells.iter().all(|cell| cell.ends_with(" ms")), "{name}: {report}");
    }
    assert!(rows(&report, "Throughput")[0].iter().all(|cell| cell.ends_with(" chunks/s")), "{report}");
    assert_eq!(
        (rows(&report, "Sequential")[0].len(), rows(&report, "Parallel")[0].len()),
        (3, 3),
        "{report}"
    );
    for stage in ["TMD (language model)", "Embedding", "PostgreSQL", "Other", "Total"] {
        let cells = rows(&report, stage).concat();
        assert!(
            cells.len() == 2 && cells[0].ends_with(" ms") && cells[1].ends_with(" %"),
            "{stage}: {report}"
        );
    }
    assert_eq!(rows(&report, "Total")[0][1], "100.0 %");
    let round = rows(&report, "1");
    assert_eq!(
        round.iter().map(|row| (row[0], row[1], row[2])).collect::<Vec<_>>(),
        [("sequential", "10", "10"), ("parallel", "10", "10"),]
    );
    // Ten calls of 20 ms; two turns of five at once.
    assert!(report.contains("expected 0.20-0.25 s") && report.contains("expected 0.04-0.05 s"), "{report}");
    assert!(report.contains("Speed-up") && !report.contains("Python"), "{report}");
}

/// Another client asks the same language model all the time, so its calls cannot be those of the chunks.
#[actix_web::test]
async fn calls_that_are_not_those_of_the_chunks_are_refused() {
    let latency = Latency::Constant(Duration::from_millis(50));
    let llm = SimulatedLlm::start(Options { slots: 100, latency, ..Options::default() }).unwrap();
    let (url, body) = (format!("{}/api/generate", llm.url()), json!({"model": "llama3.1:8b", "prompt": "p"}));
    let other = actix_web::rt::spawn(async move {
        loop {
            let answer = crate::support::test_service::client()
                .post(&url)
                .body(body.to_string())
                .send()
                .await
                .unwrap();
            answer.bytes().await.unwrap();
        }
    });
    let (mut command, folder) = bench(&["--llm", &format!("simulated:{}", llm.url())]);
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(run(&mut command)).unwrap());
    let (code, report, complaint) = told.await.unwrap();
    other.abort();
    assert_eq!((code, report.as_str()), (Some(1), ""), "{complaint}");
    let sentence = complaint.lines().find(|line| line.starts_with("lnsp: ")).unwrap();
    let called: u64 = sentence.split("called ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(called > 10 && sentence.contains("times for 10 chunks in round 1 (sequential)"), "{sentence}");
    assert!(llm.counts().answered >= called);
    assert_eq!(left(&folder), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_chunk_that_fails_is_refused_with_its_reason() {
    let fault = Some((lnsp_ingest::simulated_llm::Fault::WrongName, 1));
    let latency = Latency::Constant(Duration::from_millis(1));
    let llm = SimulatedLlm::start(Options { latency, fault, ..Options::default() }).unwrap();
    let (mut command, _folder) = bench(&["--llm", &format!("simulated:{}", llm.url())]);
    let (code, report, complaint) = run(&mut command);
    assert_eq!((code, report.as_str()), (Some(1), ""), "{complaint}");
    assert!(complaint.contains("10 of 10 chunks failed in round 1 (sequential)"), "{complaint}");
}

#[test]
fn a_service_that_does_not_start_says_why() {
    let (mut command, folder) = bench(&["--llm", "simulated:1ms"]);
    let (code, report, complaint) = run(command.env("LNSP_EMBEDDING_MODEL", "no-such-model"));
    assert_eq!((code, report.as_str()), (Some(1), ""), "{complaint}");
    assert!(complaint.contains("the sequential service has ended"), "{complaint}");
    assert!(complaint.contains("lnsp: ") && complaint.contains("no-such-model"), "{complaint}");
    assert_eq!(left(&folder), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_interrupted_one_leaves_nothing_behind() {
    let (mut command, folder) = bench(&["--llm", "simulated:5s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    let started =
        progress.by_ref().map_while(Result::ok).any(|line| line.contains("starting the parallel service"));
    assert!(started);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(progress.map_while(Result::ok).any(|line| line.contains("interrupted")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert_eq!((report.as_str(), left(&folder)), ("", Vec::new()));
}

/// A killed process can end no other: a watchdog ends the services, and they stop their PostgreSQL.
#[actix_web::test]
async fn a_killed_one_leaves_no_process_behind() {
    let (mut command, folder) = bench(&["--llm", "simulated:5s"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("both services are ready")));
    let servers = left(&folder).into_iter().map(|folder| folder.join("data/postgres/cluster/postmaster.pid"));
    let servers: Vec<_> = servers.filter(|file| file.exists()).collect();
    assert_eq!(servers.len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    until("both PostgreSQL have been stopped", || !servers.iter().any(|file| file.exists())).await;
}

#[test]
fn an_unknown_language_model_is_explained() {
    let (code, _, complaint) = run(&mut lnsp(&["bench", "--llm", "ollama"]));
    assert!(
        code == Some(2) && complaint.contains("'ollama'") && complaint.contains("simulated:LATENCY"),
        "{complaint}"
    );
}

#[test]
fn the_forms_of_answers_are_compared_on_the_users_own_chunks() {
    let file = crate::root().join("tests/data/sample.ndjson");
    let (mut command, folder) =
        bench(&["--agreement", "40", file.to_str().unwrap(), "--llm", "simulated:2ms"]);
    let (code, report, progress) = run(&mut command);
    assert_eq!(code, Some(0), "{report}{progress}");
    assert_eq!(left(&folder), Vec::<std::path::PathBuf>::new());
    assert!(report.contains("40 texts, 10 at once") && report.contains("llama3.1:8b on Ollama"), "{report}");
    for form in ["names", "short"] {
        let row = rows(&report, form).concat();
        assert_eq!(row[..2], ["40", "none"], "{report}");
        let figure = format!("figure llm.tokens_per_answer.{form} ");
        assert!(report.lines().any(|line| line.starts_with(&figure)), "{report}");
    }
    for name in ["llm.short_answer_speedup", "llm.form_agreement.domain", "tmd.fast_first_saves.50"] {
        assert_eq!(report.matches(&format!("figure {name} ")).count(), 1, "{report}");
    }
    assert_eq!(rows(&report, "0.9").concat().len(), 4, "{report}");

    for (flags, said) in [
        (vec!["--agreement", "5", "nowhere.ndjson"], "nowhere.ndjson"),
        (vec!["--agreement", "5"], "FILE"),
        (vec!["--agreement", "0", "x"], "1..=100000"),
    ] {
        let (code, report, complaint) = run(&mut bench(&flags).0);
        assert!(code != Some(0) && complaint.contains(said), "{report}{complaint}");
    }
}
