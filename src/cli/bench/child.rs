//! A process of this executable, which ends with the benchmark in whatever way that ends.

use crate::files;
use crate::output;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For a service to make its cluster, load its model and measure the machine, also on a slow one.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// To get ready, and between SIGTERM and SIGKILL: a service finishes what it has accepted, then stops its PostgreSQL.
const GRACE: Duration = Duration::from_secs(60);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);
/// Files for what it says.
const OUTPUT: &str = "output";
const COMPLAINTS: &str = "complaints";
/// Lines of complaint that are shown.
const LAST: usize = 12;

/// Why a process is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the {name} could not be started: {error}")]
    Start { name: String, error: io::Error },
    #[error("the {name} has ended ({status}); it said:{complaints}")]
    Ended { name: String, status: String, complaints: String },
    #[error("the {name} was not ready within {} s; it said:{complaints}", READY_TIMEOUT.as_secs())]
    NotReady { name: String, complaints: String },
}

/// A running process. Dropped, it is ended and waited for, and its folder removed.
pub struct Child {
    name: String,
    /// Its standard input is held open: the simulated LLM ends when that closes.
    process: std::process::Child,
    watchdog: Option<std::process::Child>,
    folder: TempDir,
}

impl Child {
    /// Starts `command`, which writes what it says into files of `folder`: a pipe would break with this process, and
    /// a service that can say nothing does not stop in order.
    pub fn spawn(name: &str, mut command: Command, folder: TempDir) -> Result<Child, ChildError> {
        let fail = |error| ChildError::Start { name: name.to_owned(), error };
        let make = |name| {
            let mut options = OpenOptions::new();
            files::open(&folder.path().join(name), options.write(true).create_new(true), None).map_err(fail)
        };
        let (output, complaints) = (make(OUTPUT)?, make(COMPLAINTS)?);
        command.stdin(Stdio::piped()).stdout(output).stderr(complaints);
        // A Ctrl-C on the terminal is for the benchmark, which then ends the others in order.
        let process = command.process_group(0).spawn().map_err(fail)?;
        Ok(Child { name: name.to_owned(), process, watchdog: None, folder })
    }

    /// From now on it is also ended when this process is killed.
    pub fn watch(&mut self) -> Result<(), ChildError> {
        let watchdog = watch_over(self.process.id());
        let fail = |error| ChildError::Start { name: self.name.clone(), error };
        self.watchdog = Some(watchdog.map_err(fail)?);
        Ok(())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it says where it is ready.
    pub async fn ready(&mut self) -> Result<String, ChildError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut looks = tokio::time::interval(LOOK);
        while Instant::now() < deadline {
            looks.tick().await;
            if let Some(url) = self.url() {
                return Ok(url);
            }
            if let Some(error) = self.obituary() {
                return Err(error);
            }
        }
        Err(ChildError::NotReady { name: self.name.clone(), complaints: self.complaints() })
    }

    /// Where it is, once it is ready.
    fn url(&self) -> Option<String> {
        let said = std::fs::read_to_string(self.folder.path().join(OUTPUT)).ok()?;
        // Only whole lines: the last one may still be in the writing.
        let mut lines = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.find_map(|line| Some(line.split_once("ready on ")?.1.trim().to_owned()))
    }

    /// How it ended and what it said, if it has ended.
    pub fn obituary(&mut self) -> Option<ChildError> {
        let status = self.process.try_wait().ok().flatten()?.to_string();
        Some(ChildError::Ended { name: self.name.clone(), status, complaints: self.complaints() })
    }

    /// The last lines it wrote to its standard error, as one.
    fn complaints(&self) -> String {
        let said = std::fs::read(self.folder.path().join(COMPLAINTS)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        if lines.is_empty() {
            return " nothing".to_owned();
        }
        format!(" {}", lines[lines.len().saturating_sub(LAST)..].join(" | "))
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Asks it to end, and does not wait for that. It gets ready first: a service that is ended while it starts would
    /// leave its PostgreSQL behind.
    pub fn tell_to_end(&mut self) {
        self.wait_while(|child| child.url().is_none());
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
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.tell_to_end();
        self.wait_while(|_| true);
        if self.is_alive() {
            say(&format!("the {} does not end by itself and is killed", self.name));
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

/// Starts a shell that waits for the end of a pipe from this process, and then ends the process `pid`. It does so
/// also when the benchmark itself is killed.
fn watch_over(pid: u32) -> io::Result<std::process::Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "read -r _; kill -TERM \"$1\"", "watchdog"]).arg(pid.to_string());
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()
}

/// Prints progress to standard error, so that standard output has only the report.
pub fn say(line: &str) {
    output::print_error_line(line);
}
