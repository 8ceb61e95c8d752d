//! Runs `scripts/start_ollama_parallel.sh` with a simulated `ollama`, and without any.

use crate::root;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A script named `ollama` that records its settings.
const FAKE: &str = r#"#!/bin/sh
[ "$1" = serve ] || exit 2
echo "$OLLAMA_NUM_PARALLEL calls, $OLLAMA_MAX_LOADED_MODELS models" >"$NOTE"
[ "$MODELS" != none ] || exit 7
exec "$LNSP" simulate-llm --port "${OLLAMA_HOST##*:}" --slots "$OLLAMA_NUM_PARALLEL" --models "$MODELS"
"#;

/// A folder that contains the program, and a free address.
struct Scene {
    folder: TempDir,
    address: String,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("ollama");
        std::fs::write(&fake, FAKE).unwrap();
        std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Scene { folder, address: free.local_addr().unwrap().to_string() }
    }

    fn script(&self, settings: &[(&str, &str)]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(root().join("scripts/start_ollama_parallel.sh"));
        for name in ["OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS", "LNSP_TMD_LLM_MODEL"] {
            command.env_remove(name);
        }
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        command.env("NOTE", self.folder.path().join("note")).env("LNSP", env!("CARGO_BIN_EXE_lnsp"));
        command.env("OLLAMA_HOST", &self.address).envs(settings.iter().copied()).stdin(Stdio::null());
        command
    }

    fn note(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("note")).unwrap_or_default()
    }
}

/// Gives the program SIGINT's default action. A shell cannot trap a signal that it was started to ignore, as it is
/// when these tests run in the background of a script.
#[allow(unsafe_code)]
fn with_sigint(command: &mut Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: `signal` may be called between fork and exec; nothing else happens there.
    unsafe {
        command.pre_exec(|| {
            signal(Signal::SIGINT, SigHandler::SigDfl)?;
            Ok(())
        });
    }
}

/// Starts the script; gives what it prints up to the line that ends the start.
fn start(mut command: Command) -> (Child, String, BufReader<ChildStdout>) {
    with_sigint(&mut command);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("Ctrl-C stops it") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "it has ended: {said}");
    }
    (child, said, output)
}

/// Sends a signal to the script alone; returns its exit code and remaining output.
fn end(
    (mut child, _, mut output): (Child, String, BufReader<ChildStdout>),
    signal: nix::sys::signal::Signal,
) -> (Option<i32>, String) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

fn refused(command: &mut Command) -> (Option<i32>, String) {
    let (code, _, complaint) = crate::support::process::run(command);
    (code, complaint)
}

#[test]
fn it_starts_the_server_says_what_is_missing_and_ends_with_it() {
    let scene = Scene::new();
    let run = start(scene.script(&[("MODELS", "tinyllama:1b,mistral")]));
    let said = &run.1;
    assert_eq!(scene.note(), "10 calls, 3 models\n");
    assert!(said.contains(&format!("ready at http://{}", scene.address)), "{said}");
    assert!(said.contains("Models: tinyllama:1b, mistral:latest\n"), "{said}");
    assert!(said.contains("ollama pull llama3.1:8b\n"), "{said}");

    // A second one is told that the settings of the first cannot be changed.
    let (code, complaint) = refused(&mut scene.script(&[]));
    assert!(
        code == Some(1) && complaint.contains("already answers") && complaint.contains("stop it first"),
        "{complaint}"
    );
    let (code, last_words) = end(run, nix::sys::signal::Signal::SIGINT);
    assert!(code == Some(130) && last_words.contains("Ollama: stopped"), "{last_words}");
    assert!(TcpStream::connect(&scene.address).is_err(), "the server runs on");
}

#[test]
fn its_settings_can_be_set() {
    let scene = Scene::new();
    let settings = [
        ("OLLAMA_NUM_PARALLEL", "4"),
        ("OLLAMA_MAX_LOADED_MODELS", "1"),
        ("MODELS", "llama3.1:8b,mistral"),
        ("LNSP_TMD_LLM_MODEL", "mistral"),
    ];
    let run = start(scene.script(&settings));
    assert_eq!(scene.note(), "4 calls, 1 models\n");
    assert!(!run.1.contains("Missing") && run.1.contains("LNSP_MAX_PARALLEL_WORKERS=4"), "{}", run.1);
    let (code, _) = end(run, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(code, Some(143));
    assert!(TcpStream::connect(&scene.address).is_err(), "the server runs on");
}

#[test]
fn it_reports_what_prevents_the_start() {
    let scene = Scene::new();
    let (code, complaint) = refused(&mut scene.script(&[("MODELS", "none")]));
    assert!(code == Some(1) && complaint.contains("has ended before it answered"), "{complaint}");

    // A program that is no Ollama: it closes every connection.
    let other = TcpListener::bind(&scene.address).unwrap();
    let closing = std::thread::spawn(move || other.accept().map(drop));
    let (code, complaint) = refused(&mut scene.script(&[]));
    closing.join().unwrap().unwrap();
    assert!(code == Some(1) && complaint.contains("no Ollama listens at http://127.0.0.1:"), "{complaint}");

    // Nothing is on the PATH, so the shell is named by its place.
    let shell = Command::new("sh").args(["-c", "command -v bash"]).output().unwrap().stdout;
    let mut command = Command::new(String::from_utf8(shell).unwrap().trim());
    let nothing = tempfile::tempdir().unwrap();
    command.arg(root().join("scripts/start_ollama_parallel.sh")).env("PATH", nothing.path());
    let (code, complaint) = refused(&mut command);
    assert!(code == Some(1) && complaint.contains("ollama is not on the PATH"), "{complaint}");
    let (code, complaint) = refused(scene.script(&[]).arg("--fast"));
    assert!(code == Some(2) && complaint.contains("\"--fast\""), "{complaint}");
}
