//! `lnsp` as a process of its own, for what a test cannot do to itself: wrong settings, signals, kills.

use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A running `lnsp serve`. Killed when dropped.
pub struct Service {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// Everything it printed until it was ready.
    pub log: String,
    child: Child,
    complaints: Option<JoinHandle<String>>,
}

/// `lnsp`, without the environment's own settings.
pub fn lnsp(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lnsp"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("LNSP_") || name.starts_with("PG") || name == "DATABASE_URL" {
            command.env_remove(&*name);
        }
    }
    // A language model that happens to run on this machine must not be asked.
    command.env("LNSP_TMD_BACKEND", "local").args(arguments).stdin(Stdio::null());
    command
}

/// Runs `lnsp` to its end: exit code, what it printed, what it complained about.
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// As [`run`], beside a service that runs on the thread of the test.
pub async fn run_beside(mut command: Command) -> (Option<i32>, String, String) {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(tell.send(run(&mut command))));
    told.await.unwrap()
}

impl Service {
    /// Starts it on a free port and waits until it says that it is ready.
    pub fn start(data: &Path, flags: &[&str]) -> Service {
        Service::start_on("0", data, flags)
    }

    /// Starts it on this port.
    pub fn start_on(port: &str, data: &Path, flags: &[&str]) -> Service {
        let base = ["serve", "--port", port, "--dtype", "f32", "--data-dir", data.to_str().unwrap()];
        Service::start_as(lnsp(&[&base[..], flags].concat()))
    }

    /// Starts it by this command.
    pub fn start_as(mut command: Command) -> Service {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let complaints = child.stderr.take().unwrap();
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            BufReader::new(complaints).read_to_string(&mut text).unwrap();
            text
        });
        // The reader goes on after the line that is waited for, so that the service never blocks on a full pipe.
        let (tell, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        let mut log = String::new();
        while let Ok(line) = lines.recv_timeout(Duration::from_secs(120)) {
            log += &line;
            log.push('\n');
            if let Some((_, url)) = line.split_once("ready on ") {
                return Service { url: url.to_owned(), log, child, complaints: Some(complaints) };
            }
        }
        drop(child.kill());
        drop(child.wait());
        panic!("not ready: {log}{}", complaints.join().unwrap());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end().0
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end; gives what it complained about.
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.complaints.take().unwrap().join().unwrap())
    }

    /// Stops it for so long, as a debugger or a sleeping machine does.
    pub async fn suspend(&self, time: Duration) {
        self.signal(Signal::SIGSTOP);
        tokio::time::sleep(time).await;
        self.signal(Signal::SIGCONT);
    }

    /// Bytes of its memory that no file stands behind.
    pub fn anonymous_memory(&self) -> u64 {
        anonymous_memory(self.pid())
    }
}

/// Bytes of a process's memory that no file stands behind.
pub fn anonymous_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

impl Drop for Service {
    fn drop(&mut self) {
        // After `kill` and `terminate` there is no process to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
