//! Processes of this executable that the benchmark starts, and ends whatever happens.

use super::service::Mode;
use crate::simulated_llm::Latency;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

/// The model that both the simulated LLM and the services are told to use.
const MODEL: &str = "llama3.1:8b";
/// For a service to make its cluster, load its model and measure the machine, also on a slow one.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between SIGTERM and SIGKILL: a service finishes what it has accepted, then stops its PostgreSQL.
const GRACE: Duration = Duration::from_secs(60);
/// Lines of complaint that are kept.
const COMPLAINTS: usize = 12;

/// Why a process is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the {name} could not be started: {error}")]
    Start { name: String, error: io::Error },
    #[error("the {name} has ended ({status}); it said:{complaints}")]
    Ended { name: String, status: String, complaints: String },
    #[error("the {name} was not ready within {} s; it said:{complaints}", PATIENCE.as_secs())]
    NotReady { name: String, complaints: String },
}

/// All processes that were started. Dropped, it ends them, waits for them, and removes their folders.
#[derive(Default)]
pub struct Crew {
    children: Vec<Child>,
}

struct Child {
    name: String,
    process: std::process::Child,
    /// Where it is, once it is ready.
    url: watch::Receiver<Option<String>>,
    complaints: Arc<Mutex<VecDeque<String>>>,
    /// Held open: the simulated LLM ends when it closes, so also when this process is killed.
    _input: Option<ChildStdin>,
    _folder: Option<TempDir>,
}

impl Crew {
    /// Starts a simulated language model; its address.
    pub async fn simulate_llm(&mut self, latency: Latency, slots: usize) -> Result<String, ChildError> {
        let name = "simulated LLM".to_owned();
        let mut command = this_program(&name)?;
        command.args(["simulate-llm", "--until-stdin-closes", "--models", MODEL]);
        command.args(["--latency", &latency.to_string(), "--slots", &slots.to_string()]);
        self.start(name, command, None).await
    }

    /// Starts a service with a data folder of its own, whose codes come from the language model alone; its address.
    pub async fn serve(
        &mut self,
        mode: Mode,
        workers: usize,
        llm: Option<&str>,
    ) -> Result<String, ChildError> {
        let name = format!("{mode} service");
        // A PostgreSQL that is started by root runs as another account, which has to pass.
        let open = std::fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("lnsp-bench-").permissions(open).tempdir();
        let folder = folder.map_err(|error| ChildError::Start { name: name.clone(), error })?;
        let mut command = this_program(&name)?;
        for setting in ["DATABASE_URL", "PG_DSN", "LNSP_HOST", "LNSP_PORT", "LNSP_DATA_DIR"] {
            command.env_remove(setting);
        }
        command.args(["serve", "--port", "0", "--data-dir"]).arg(folder.path());
        command.env("LNSP_TMD_BACKEND", "llm").env("LNSP_TMD_ON_FAILURE", "reject");
        command.env("LNSP_ENABLE_PARALLEL", (mode == Mode::Parallel).to_string());
        command.env("LNSP_MAX_PARALLEL_WORKERS", workers.to_string());
        if let Some(llm) = llm {
            command.env("LNSP_LLM_ENDPOINT", llm).env("LNSP_TMD_LLM_MODEL", MODEL);
        }
        self.start(name, command, Some(folder)).await
    }

    /// Starts a process and waits until it says where it is ready.
    async fn start(
        &mut self,
        name: String,
        mut command: Command,
        folder: Option<TempDir>,
    ) -> Result<String, ChildError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C on the terminal is for the benchmark, which then ends the others in order.
        command.process_group(0);
        let mut process = command.spawn().map_err(|error| ChildError::Start { name: name.clone(), error })?;
        let (input, output, errors) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, url) = watch::channel(None);
        // In the crew from the first moment, so that no way out leaves it behind.
        let mut told = url.clone();
        let child =
            Child { name, process, url, complaints: complaints.clone(), _input: input, _folder: folder };
        self.children.push(child);
        let child = self.children.len() - 1;

        // The readers go on to the end, so that the process never blocks on a full pipe.
        let reading = read_lines(output, move |line| {
            if let Some((_, url)) = line.split_once("ready on ") {
                tell.send_replace(Some(url.trim().to_owned()));
            }
        });
        let complaining = read_lines(errors, move |line| {
            let mut kept = complaints.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(line);
            if kept.len() > COMPLAINTS {
                kept.pop_front();
            }
        });
        let child = &mut self.children[child];
        reading.and(complaining).map_err(|error| ChildError::Start { name: child.name.clone(), error })?;
        let ready = async { told.wait_for(Option::is_some).await.ok().and_then(|url| url.clone()) };
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Some(url)) => Ok(url),
            Ok(None) => Err(child.end_of_life().await),
            Err(_) => Err(ChildError::NotReady { name: child.name.clone(), complaints: child.complaints() }),
        }
    }

    /// What the service of this mode said when it ended, if it has.
    pub fn obituary(&mut self, mode: Mode) -> Option<ChildError> {
        let name = format!("{mode} service");
        let child = self.children.iter_mut().find(|child| child.name == name)?;
        let status = child.process.try_wait().ok().flatten()?;
        Some(child.ended(status))
    }
}

impl Child {
    /// It has closed its output, so it ends; its last words come a moment later.
    async fn end_of_life(&mut self) -> ChildError {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..250 {
            looks.tick().await;
            if let Ok(Some(status)) = self.process.try_wait() {
                looks.tick().await;
                return self.ended(status);
            }
        }
        ChildError::NotReady { name: self.name.clone(), complaints: self.complaints() }
    }

    fn ended(&self, status: ExitStatus) -> ChildError {
        ChildError::Ended {
            name: self.name.clone(),
            status: status.to_string(),
            complaints: self.complaints(),
        }
    }

    /// The last lines it wrote to its standard error, indented.
    fn complaints(&self) -> String {
        let kept = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return " nothing".to_owned();
        }
        kept.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn signal(&mut self, signal: Signal) {
        // Only a process that was just seen alive: its number could be another's by now.
        if let (true, Ok(pid)) = (self.is_alive(), i32::try_from(self.process.id())) {
            // It may end in between, and then there is nobody to tell.
            let _told: Result<(), Errno> = kill(Pid::from_raw(pid), signal);
        }
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        for child in &mut self.children {
            // A service that is ended while it starts would leave its PostgreSQL behind.
            wait_while(|| child.url.borrow().is_none() && child.is_alive(), deadline);
            child.signal(Signal::SIGTERM);
        }
        for child in &mut self.children {
            wait_while(|| child.is_alive(), deadline);
            if child.is_alive() {
                super::say(&format!("the {} does not end by itself and is killed", child.name));
                child.signal(Signal::SIGKILL);
                // After SIGKILL the end is certain; this takes its exit status.
                drop(child.process.wait());
            }
        }
    }
}

/// Looks again and again, on this thread: it is the end of the benchmark, and nothing else goes on.
fn wait_while(mut waiting: impl FnMut() -> bool, deadline: Instant) {
    while waiting() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn this_program(name: &str) -> Result<Command, ChildError> {
    let program = std::env::current_exe();
    program.map(Command::new).map_err(|error| ChildError::Start { name: name.to_owned(), error })
}

/// A thread that reads lines to the end.
fn read_lines(
    source: Option<impl Read + Send + 'static>,
    mut take: impl FnMut(String) + Send + 'static,
) -> io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    let read = move || BufReader::new(source).lines().map_while(Result::ok).for_each(&mut take);
    std::thread::Builder::new().name("bench-reader".to_owned()).spawn(read).map(drop)
}
