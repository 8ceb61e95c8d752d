//! What `lnsp ingest` shows on a terminal of any size, and where there is none.

use crate::support::process::lnsp;
use crate::support::scripted_service::{ScriptedService, Step};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tokio::sync::Notify;

/// Runs a command on a terminal of this size. `script` makes the terminal.
fn on_a_terminal(rows: u16, columns: u16, command: &Command) -> Output {
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let line = format!("stty rows {rows} cols {columns}; exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    script.output().unwrap()
}

#[test]
fn progress_and_table_fit_the_terminal_and_survive_one_without_a_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file with quite a long name for a line of eighty characters.ndjson");
    let lines: String = (0..200).map(|n| format!("{{\"text\":\"Fact {n}.\"}}\n")).collect();
    fs::write(&file, lines + "{\"text\":\"\"}\n").unwrap();
    for (rows, columns) in [(24, 80), (0, 0), (2, 10), (50, 200)] {
        // It goes on only when it has been cut off, so that there is a bar to see.
        let gate = Arc::new(Notify::new());
        let service = ScriptedService::start([Step::CutAfter(150, gate.clone())]);
        gate.notify_one();
        let command = lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]);
        let output = on_a_terminal(rows, columns, &command);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{rows} x {columns}: {shown}");
        assert!(
            shown.contains("1 failed in ") && shown.contains("text_empty"),
            "{rows} x {columns}: {shown}"
        );
        assert!(!shown.contains("panicked"), "{shown}");
        assert_eq!(service.stored(), 200);
    }
}

#[test]
fn a_closed_pipe_does_not_stop_an_upload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chunks");
    fs::write(&file, (0..100).map(|n| format!("{{\"text\":\"Fact {n}.\"}}\n")).collect::<String>()).unwrap();
    let service = ScriptedService::start([]);
    let mut command = lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert_eq!(service.stored(), 100);
}

#[test]
fn the_progress_says_what_limits_the_rate() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chunks");
    fs::write(&file, (0..100).map(|n| format!("{{\"text\":\"Fact {n}.\"}}\n")).collect::<String>()).unwrap();
    let gate = Arc::new(Notify::new());
    let service = ScriptedService::start([Step::CutAfter(60, gate.clone())]);
    service.set_limited_by("the model");
    let mut command = lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // A line every five seconds; the service is asked before the first of them.
    let line = lines.find(|line| line.contains("limited by")).unwrap();
    assert!(line.contains(": 60 of 100 chunks, ") && line.ends_with(", limited by the model"), "{line}");
    gate.notify_one();
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    assert_eq!(service.stored(), 100);
}
