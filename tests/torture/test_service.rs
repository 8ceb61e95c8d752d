//! Keeps a service running: starts the process, waits for its end, runs the judge, and starts it again. The faults that
//! hit the process are here.

use crate::cluster::postmaster;
use crate::judge::{Case, When};
use crate::round_state::RoundState;
use crate::service::ServiceSettings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

/// What the round wants of the service, and so what follows when its process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesiredState {
    /// It runs, and must not end.
    Running,
    /// It was killed, and is started again.
    Killed,
    /// It was told to end in order, and is started again.
    Drained,
    /// It was told to end in order, and stays so.
    Stopped,
}

/// Runs one service as a process, and restarts it after kills and drains.
pub struct TestService {
    state: Arc<RoundState>,
    settings: Mutex<ServiceSettings>,
    /// Where PostgreSQL's folder is.
    pub data: PathBuf,
    /// A service may give up while it starts: its database is taken away from it.
    pub may_give_up: bool,
    desired: watch::Sender<DesiredState>,
    pid: watch::Sender<Option<i32>>,
    ended: Mutex<Option<ExitStatus>>,
}

impl TestService {
    /// Nothing runs before [`Self::keep`].
    pub fn new(
        state: Arc<RoundState>,
        settings: ServiceSettings,
        data: PathBuf,
        may_give_up: bool,
    ) -> Arc<TestService> {
        let (desired, pid) = (watch::Sender::new(DesiredState::Running), watch::Sender::new(None));
        let (settings, ended) = (Mutex::new(settings), Mutex::default());
        Arc::new(TestService { state, settings, data, may_give_up, desired, pid, ended })
    }

    /// Starts the service again and again until it is stopped.
    pub async fn keep(self: Arc<TestService>) {
        let (mut gave_up, mut started) = (0, Instant::now());
        while *self.desired.borrow() != DesiredState::Stopped {
            let (mut child, mut said) = self.spawn();
            self.pid.send_replace(child.id().map(|pid| pid as i32));
            let status = self.attend(&mut child, &mut said, started).await;
            *self.ended.lock().unwrap() = Some(status);
            self.pid.send_replace(None);
            let was_ready = self.state.url.send_replace(None).is_some();
            let desired = *self.desired.borrow();
            match desired {
                DesiredState::Stopped => {}
                DesiredState::Killed | DesiredState::Drained => {
                    self.judge(if desired == DesiredState::Killed { When::Killed } else { When::Drained })
                        .await;
                    // A request to stop that came meanwhile is kept.
                    self.desired.send_if_modified(|now| {
                        *now == desired && std::mem::replace(now, DesiredState::Running) == desired
                    });
                    started = Instant::now();
                }
                DesiredState::Running if self.may_give_up && !was_ready && gave_up < 50 => {
                    gave_up += 1;
                    self.state.count("starts given up");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                DesiredState::Running => {
                    self.state.fail(format!("the service ended by itself: {status}; {}", self.last_words()));
                    return;
                }
            }
        }
    }

    fn spawn(&self) -> (Child, Lines<BufReader<ChildStdout>>) {
        let settings = self.settings.lock().unwrap().clone();
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("role:service")
            .arg(serde_json::to_string(&settings).unwrap())
            .env_remove("DATABASE_URL")
            .env_remove("PG_DSN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, said)
    }

    /// Listens to what it says, until it ends.
    async fn attend(
        &self,
        child: &mut Child,
        said: &mut Lines<BufReader<ChildStdout>>,
        started: Instant,
    ) -> ExitStatus {
        while let Ok(Some(line)) = said.next_line().await {
            match line.split_once(' ') {
                Some(("ready", url)) => {
                    self.state.ready(started);
                    let url = url.trim_start_matches("on ").to_owned();
                    self.state.url.send_replace(Some(url));
                }
                Some(("panic", stage)) => {
                    // Each death is wanted once, also when the service is killed and counts from the beginning.
                    let panics = &mut self.settings.lock().unwrap().panics;
                    if let Some(place) = panics.iter().position(|(name, _)| name == stage) {
                        panics.remove(place);
                    }
                    self.state.struck(&format!("panic-{stage}"), 1);
                }
                _ if line.starts_with("stop") => {}
                _ => self.state.fail(format!("the service says: {line}")),
            }
        }
        child.wait().await.unwrap()
    }

    /// Kills the service, as one kills a process. Says whether it was there.
    pub async fn kill(&self) -> bool {
        let pid = *self.pid.borrow();
        let Some(pid) = pid else { return false };
        self.desired.send_replace(DesiredState::Killed);
        let there = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
        self.gone(pid).await;
        there
    }

    /// Starts the service again, and no stage dies with a chunk any more.
    pub async fn cure(&self) {
        self.settings.lock().unwrap().poison.clear();
        while self.state.service().await.is_some() && !self.kill().await {}
    }

    /// Sends the service a signal that it does not die of. Says whether it was there.
    pub fn signal(&self, signal: Signal) -> bool {
        let pid = *self.pid.borrow();
        pid.is_some_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// The bytes of its memory that no file stands behind.
    pub fn memory(&self) -> Option<u64> {
        let pid = (*self.pid.borrow())?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }

    /// Waits until the process is another one, or none.
    async fn gone(&self, pid: i32) {
        drop(self.pid.subscribe().wait_for(|now| *now != Some(pid)).await);
    }

    /// Lets the service drain under load; it is started again. Says whether it served.
    pub async fn drain(&self) -> bool {
        let serves = self.state.url.borrow().is_some();
        if serves {
            self.end(DesiredState::Drained).await;
        }
        serves
    }

    /// Tells the service to end in order.
    pub async fn stop(&self) {
        self.end(DesiredState::Stopped).await;
    }

    /// Tells the service to end in order, and waits until it has: with all of its chunks answered.
    async fn end(&self, desired: DesiredState) {
        let pid = *self.pid.borrow();
        self.desired.send_replace(desired);
        let Some(pid) = pid else { return self.state.fail("there is no service to be stopped".to_owned()) };
        let _told = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if tokio::time::timeout(Duration::from_secs(60), self.gone(pid)).await.is_err() {
            self.state
                .fail(format!("the service does not end within 60 s of SIGTERM; {}", self.last_words()));
            let _told = kill(Pid::from_raw(pid), Signal::SIGKILL);
            self.gone(pid).await;
        } else if let Some(status) = self.ended.lock().unwrap().filter(|status| !status.success()) {
            self.state.fail(format!("the service ended with {status} after SIGTERM; {}", self.last_words()));
        }
    }

    /// Lets the judge look while no service runs; after a kill only where PostgreSQL answers.
    pub async fn judge(&self, when: When) {
        if when == When::Killed && postmaster(&self.data).is_none() {
            return;
        }
        self.state.count("judged");
        if let Some(findings) = self.findings(when).await {
            self.state.fail(format!("the judge, {when:?}: {findings}"));
        }
    }

    /// What the judge finds.
    pub async fn findings(&self, when: When) -> Option<String> {
        let settings = self.settings.lock().unwrap().clone();
        let case = Case {
            seed: self.state.seed,
            data: self.data.clone(),
            index: settings.data.join("index"),
            ledger: self.state.oracle.ledger.clone(),
            when,
        };
        let output = Command::new(std::env::current_exe().unwrap())
            .arg("role:judge")
            .arg(serde_json::to_string(&case).unwrap())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (!output.status.success()).then(|| text(&output.stdout) + &text(&output.stderr))
    }

    /// Not on the disk of the data, which may be full.
    pub fn log(&self) -> PathBuf {
        self.state.oracle.ledger.with_file_name("service.log")
    }

    /// The end of the service's log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n    ");
        format!("its last words:\n    {last}")
    }
}
