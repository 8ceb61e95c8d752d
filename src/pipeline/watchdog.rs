//! A plain thread that checks for stalls: in the threads that cannot be replaced, in the pipeline's own thread, in the
//! supervisor, and in the tasks of the stages.
//!
//! A stalled task is aborted, and its stage is healed as after a death. A stalled thread, the pipeline's among them, or
//! one that has ended, cannot be healed: see [`FatalHandler`]. [`StallDetector`] decides; this file reads and acts.

use super::stall::{StallDetector, StallReport};
use crate::flow::TaskRegistry;
use crate::metrics;
use crate::output::print_error_line;
use crate::stages::{Died, Stage};
use crate::threads::{Progress, Reading, lock};
use actix::ArbiterHandle;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// The exit code of a process that ends because a part of it cannot be healed: `EX_SOFTWARE` of `sysexits.h`.
const EXIT: i32 = 70;
/// The most time for the last message: the reader of the log may be what hangs.
const LAST_MESSAGE: Duration = Duration::from_secs(2);
/// The longest pause between two checks.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// What is done when only the end of the process helps. The default prints the reason and exits.
#[derive(Clone)]
pub struct FatalHandler(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHandler {
    /// Calls `act` instead, with the reason as a sentence.
    pub fn new(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        FatalHandler(Arc::new(act))
    }
}

impl Default for FatalHandler {
    fn default() -> Self {
        FatalHandler::new(|sentence| {
            let timer = thread::Builder::new().spawn(|| {
                thread::sleep(LAST_MESSAGE);
                exit_at_once(EXIT)
            });
            drop(timer);
            print_error_line(format!("lnsp: {sentence}"));
            exit_at_once(EXIT)
        })
    }
}

/// Ends the process while its threads still work, without the destructors of libraries: they would wait for a thread
/// that hangs, or free what another thread computes with.
#[expect(unsafe_code, reason = "the standard library only has exits that run destructors, and an abort")]
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` takes a number, touches no memory of the process, and may be called from any thread.
    unsafe { nix::libc::_exit(code) }
}

impl fmt::Debug for FatalHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHandler")
    }
}

/// The settings of the watchdog.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// Work without progress for this long is stalled.
    pub deadline: Duration,
    /// What is done when a thread hangs.
    pub fatal_handler: FatalHandler,
}

impl Default for WatchSettings {
    fn default() -> Self {
        WatchSettings { deadline: Duration::from_secs(120), fatal_handler: FatalHandler::default() }
    }
}

/// The pipeline as the watchdog sees it.
pub(super) struct WatchTargets {
    /// The pipeline's thread, asked at every check whether it still answers.
    pub(super) arbiter: ArbiterHandle,
    /// The supervisor: at work while it waits for chunks to leave the stages.
    pub(super) supervisor: Progress,
    /// The tasks of each stage, in the order of [`Stage::ALL`].
    pub(super) tasks: [Arc<TaskRegistry>; 3],
    /// Where the death of a stalled stage is reported.
    pub(super) deaths: Sender<Died>,
}

/// The handle of the thread, which ends when this is dropped.
pub(super) struct Watchdog {
    state: Arc<Mutex<WatchState>>,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct WatchState {
    detector: StallDetector,
    fatal_handler: FatalHandler,
    threads: Vec<Progress>,
    /// The pipeline's thread: at work while a question is not answered.
    answer: Progress,
    pipeline: Option<WatchTargets>,
}

/// What a reading is of.
#[derive(Clone, Copy)]
enum WatchedPart {
    /// It cannot be replaced.
    Thread,
    /// A task of this stage.
    Task(Stage),
}

impl Watchdog {
    /// Watches `threads` and the pipeline from now on.
    pub(super) fn start(settings: WatchSettings, threads: Vec<Progress>, pipeline: WatchTargets) -> Watchdog {
        let step = (settings.deadline / 8).min(LONGEST_STEP);
        let state = Arc::new(Mutex::new(WatchState {
            detector: StallDetector::new(settings.deadline, step, Instant::now()),
            fatal_handler: settings.fatal_handler,
            threads,
            answer: Progress::new("the pipeline's thread"),
            pipeline: Some(pipeline),
        }));
        let (end, ended) = mpsc::channel();
        let watching = state.clone();
        let thread = thread::Builder::new().name("lnsp-watchdog".to_owned()).spawn(move || {
            while ended.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
                lock(&watching).check(Instant::now());
            }
        });
        #[expect(clippy::expect_used, reason = "a process that cannot start a thread cannot serve")]
        let thread = thread.expect("the operating system refused a thread");
        Watchdog { state, end: Some(end), thread: Some(thread) }
    }

    /// The pipeline is about to stop as intended: only the other threads are watched from now on.
    pub(super) fn leave_pipeline(&self) {
        lock(&self.state).pipeline = None;
    }

    /// The threads at work: the name, the work, and for how long.
    pub(super) fn at_work(&self) -> Vec<(Arc<str>, &'static str, Duration)> {
        let state = lock(&self.state);
        let doing =
            |progress: &Progress| progress.doing().map(|(what, age)| (progress.name().clone(), what, age));
        state.threads.iter().filter_map(doing).collect()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end = None;
        // The fatal handler may run on the watchdog's own thread and drop what holds us.
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            drop(thread.join());
        }
    }
}

impl WatchState {
    fn check(&mut self, now: Instant) {
        let (subjects, readings) = self.read();
        if let Some(gone) = readings.iter().find(|reading| reading.gone) {
            let name = gone.name.clone();
            return self.give_up(&format!("{name} has ended unexpectedly"));
        }
        let StallReport { stalled, suspended } = self.detector.check(now, &readings);
        metrics::suspended(suspended);
        for (position, lasted) in stalled {
            let (subject, reading) = (subjects[position], &readings[position]);
            match subject {
                WatchedPart::Thread => {
                    let (name, doing) = (&reading.name, reading.doing.unwrap_or_default());
                    let sentence = format!(
                        "{name} hangs: it has been {doing} for {} s without a sign of progress",
                        lasted.as_secs()
                    );
                    return self.give_up(&sentence);
                }
                WatchedPart::Task(stage) => self.heal(stage, reading),
            }
        }
    }

    fn read(&self) -> (Vec<WatchedPart>, Vec<Reading>) {
        let mut seen: Vec<(WatchedPart, Reading)> =
            self.threads.iter().map(|progress| (WatchedPart::Thread, progress.read())).collect();
        if let Some(pipeline) = &self.pipeline {
            seen.push((WatchedPart::Thread, self.ask(&pipeline.arbiter)));
            seen.push((WatchedPart::Thread, pipeline.supervisor()));
            seen.extend(pipeline.tasks().map(|(stage, reading)| (WatchedPart::Task(stage), reading)));
        }
        seen.into_iter().unzip()
    }

    /// Asks the pipeline's thread to answer, unless a question is still open.
    fn ask(&self, arbiter: &ArbiterHandle) -> Reading {
        let open = self.answer.read().doing.is_some();
        let alive = open || {
            let question = self.answer.begin("in one task, without answering,");
            arbiter.spawn_fn(move || drop(question))
        };
        Reading { gone: !alive, ..self.answer.read() }
    }

    /// Reports the stage as dead, and aborts its stalled task.
    fn heal(&self, stage: Stage, reading: &Reading) {
        let Some(pipeline) = &self.pipeline else { return };
        let tasks = &pipeline.tasks[stage as usize];
        let Some(generation) = tasks.generation_of(reading) else { return };
        // The report must come before that of the aborted task, which is a mere stop. A full queue holds reports of
        // other deaths; this stall is found again at the next check.
        if pipeline.deaths.try_send(Died { stage, generation, cause: "stalled" }).is_ok() {
            tasks.abort(reading);
        }
    }

    /// Once: a fatal handler that returns, as in tests, is not called again.
    fn give_up(&mut self, sentence: &str) {
        let advice = "this cannot be mended from inside, so the service ends: start it again; nothing \
                      acknowledged is lost";
        (self.pipeline, self.threads) = (None, Vec::new());
        (self.fatal_handler.0)(&format!("{sentence}; {advice}"));
    }
}

impl WatchTargets {
    /// The supervisor is stalled when it waits for chunks on which no task works.
    fn supervisor(&self) -> Reading {
        let reading = self.supervisor.read();
        let held = self.tasks.iter().any(|tasks| !tasks.is_empty());
        Reading { doing: reading.doing.filter(|_| !held), ..reading }
    }

    /// The tasks at work.
    fn tasks(&self) -> impl Iterator<Item = (Stage, Reading)> {
        let stages = Stage::ALL.into_iter().zip(&self.tasks);
        stages.flat_map(|(stage, tasks)| tasks.readings().into_iter().map(move |reading| (stage, reading)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::mpsc::{Receiver, channel};

    const STEP: Duration = Duration::from_secs(1);
    const DEADLINE: Duration = Duration::from_secs(2);

    /// A watchdog with the test's clock, and what it watches.
    struct Scene {
        state: WatchState,
        now: Instant,
        supervisor: Progress,
        tasks: [Arc<TaskRegistry>; 3],
        deaths: Receiver<Died>,
        said: mpsc::Receiver<String>,
    }

    impl Scene {
        fn new() -> Scene {
            let supervisor = Progress::new("the supervisor");
            let tasks = Stage::ALL.map(|stage| TaskRegistry::new(stage.name()));
            let ((report, deaths), (say, said)) = (channel(8), mpsc::channel());
            let now = Instant::now();
            let watched = WatchTargets {
                arbiter: actix::Arbiter::current(),
                supervisor: supervisor.clone(),
                tasks: tasks.clone(),
                deaths: report,
            };
            let state = WatchState {
                detector: StallDetector::new(DEADLINE, STEP, now),
                fatal_handler: FatalHandler::new(move |sentence| say.send(sentence.to_owned()).unwrap()),
                threads: Vec::new(),
                answer: Progress::new("the pipeline's thread"),
                pipeline: Some(watched),
            };
            Scene { state, now, supervisor, tasks, deaths, said }
        }

        /// Lets a deadline pass between two checks, in which the pipeline's thread answers.
        async fn pass_a_deadline(&mut self) {
            for _ in 0..2 {
                self.now += DEADLINE;
                self.state.check(self.now);
                while self.state.answer.read().doing.is_some() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[actix_web::test]
    async fn a_supervisor_may_wait_for_chunks_as_long_as_a_task_holds_one() {
        let mut scene = Scene::new();
        let _waiting = scene.supervisor.begin("waiting for chunks on which no task works");
        let task = scene.tasks[Stage::Write as usize].begin(1);
        let mut wait = Box::pin(task.wait_for("PostgreSQL", pending::<()>()));
        assert!(futures_util::poll!(&mut wait).is_pending());
        scene.pass_a_deadline().await;
        assert_eq!(scene.said.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(wait);
        drop(task);
        scene.pass_a_deadline().await;
        let sentence = scene.said.try_recv().unwrap();
        assert!(sentence.starts_with("the supervisor hangs: it has been waiting for chunks"), "{sentence}");
        scene.pass_a_deadline().await;
        assert!(scene.said.try_recv().is_err(), "it is said once");
    }

    #[actix_web::test]
    async fn a_stalled_task_is_reported_as_a_death_of_its_own_generation() {
        let mut scene = Scene::new();
        let _task = scene.tasks[Stage::Embed as usize].begin(7);
        scene.pass_a_deadline().await;
        let died = scene.deaths.try_recv().unwrap();
        assert_eq!((died.stage, died.generation, died.cause), (Stage::Embed, 7, "stalled"));
        assert!(scene.deaths.try_recv().is_err() && scene.said.try_recv().is_err());
    }
}
