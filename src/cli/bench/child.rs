//! A process of this executable, which ends with the benchmark in whatever way that ends.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

/// For a service to make its cluster, load its model and measure the machine, also on a slow one.
const PATIENCE: Duration = Duration::from_secs(300);
/// To get ready, and between SIGTERM and SIGKILL: a service finishes what it has accepted, then stops its PostgreSQL.
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

/// A running process. Dropped, it is ended and waited for, and its folder removed.
pub struct Child {
    name: String,
    /// Its standard input is held open: the simulated LLM ends when that closes.
    process: std::process::Child,
    /// Where it is, once it is ready.
    url: watch::Receiver<Option<String>>,
    complaints: Arc<Mutex<VecDeque<String>>>,
    watchdog: Option<std::process::Child>,
    _folder: Option<TempDir>,
}

impl Child {
    /// Starts `command`. One with a folder has a PostgreSQL in it, and is also ended when this process is killed.
    pub fn spawn(name: &str, mut command: Command, folder: Option<TempDir>) -> Result<Child, ChildError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C on the terminal is for the benchmark, which then ends the others in order.
        command.process_group(0);
        let fail = |error| ChildError::Start { name: name.to_owned(), error };
        let (tell, url) = watch::channel(None);
        let process = command.spawn().map_err(fail)?;
        let watched = folder.is_some();
        let mut child = Child {
            name: name.to_owned(),
            process,
            url,
            complaints: Arc::default(),
            watchdog: None,
            _folder: folder,
        };
        child.listen(tell).map_err(fail)?;
        if watched {
            child.watchdog = Some(watch_over(child.process.id()).map_err(fail)?);
        }
        Ok(child)
    }

    /// Reads what it says, to the end, so that it never blocks on a full pipe.
    fn listen(&mut self, tell: watch::Sender<Option<String>>) -> io::Result<()> {
        read_lines(self.process.stdout.take(), move |line| {
            if let Some((_, url)) = line.split_once("ready on ") {
                tell.send_replace(Some(url.trim().to_owned()));
            }
        })?;
        let complaints = self.complaints.clone();
        read_lines(self.process.stderr.take(), move |line| {
            let mut kept = complaints.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(line);
            if kept.len() > COMPLAINTS {
                kept.pop_front();
            }
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it says where it is ready.
    pub async fn ready(&mut self) -> Result<String, ChildError> {
        let url = async { self.url.wait_for(Option::is_some).await.ok().and_then(|url| url.clone()) };
        match tokio::time::timeout(PATIENCE, url).await {
            Ok(Some(url)) => Ok(url),
            Ok(None) => Err(self.last_words().await),
            Err(_) => Err(self.not_ready()),
        }
    }

    /// It has closed its output, so it ends; what it said last arrives in a moment.
    async fn last_words(&mut self) -> ChildError {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..250 {
            looks.tick().await;
            if !self.is_alive() {
                looks.tick().await;
                break;
            }
        }
        self.obituary().unwrap_or_else(|| self.not_ready())
    }

    /// How it ended and what it said, if it has ended.
    pub fn obituary(&mut self) -> Option<ChildError> {
        let status: ExitStatus = self.process.try_wait().ok().flatten()?;
        let (name, complaints) = (self.name.clone(), self.said());
        Some(ChildError::Ended { name, status: status.to_string(), complaints })
    }

    fn not_ready(&self) -> ChildError {
        ChildError::NotReady { name: self.name.clone(), complaints: self.said() }
    }

    /// The last lines it wrote to its standard error, indented.
    fn said(&self) -> String {
        let kept = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return " nothing".to_owned();
        }
        kept.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Asks it to end, and does not wait for that. It gets ready first: a service that is ended while it starts would
    /// leave its PostgreSQL behind.
    pub fn tell_to_end(&mut self) {
        self.wait_while(|child| child.url.borrow().is_none());
        self.signal(Signal::SIGTERM);
    }

    fn signal(&mut self, signal: Signal) {
        // Only a process that was just seen alive: its number could be another's by now.
        if let (true, Ok(pid)) = (self.is_alive(), i32::try_from(self.process.id())) {
            // It may end in between, and then there is nobody to tell.
            let _told: Result<(), Errno> = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Looks again and again, on this thread: this is the end of the benchmark, and nothing else goes on.
    fn wait_while(&mut self, waiting: impl Fn(&Child) -> bool) {
        let deadline = Instant::now() + GRACE;
        while waiting(self) && self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.tell_to_end();
        self.wait_while(|_| true);
        if self.is_alive() {
            super::say(&format!("the {} does not end by itself and is killed", self.name));
            self.signal(Signal::SIGKILL);
        }
        // Both have ended or have just been killed; this takes their exit status.
        drop(self.process.wait());
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.kill());
            drop(watchdog.wait());
        }
    }
}

/// Starts a shell that waits for the end of a pipe from this process, and then ends the process `pid`: should the
/// benchmark be killed, nobody else is left to do it.
fn watch_over(pid: u32) -> io::Result<std::process::Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "read -r _; kill -TERM \"$1\"", "watchdog"]).arg(pid.to_string());
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()
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
