//! A plain thread that looks whether everybody still moves: the threads that cannot be replaced, the pipeline's own
//! thread, the supervisor, and the work in the hands of the stages.
//!
//! Work that stands still while its thread runs is ended, and its stage is healed as after a death. A thread that
//! stands still, the pipeline's among them, or one that has ended, is beyond healing: [`FatalHandler`]. What is
//! decided is decided by [`StallDetector`]; here is only what it takes to look and to act.

use super::stall::{StallDetector, StallReport};
use crate::flow::TaskRegistry;
use crate::metrics;
use crate::stages::{Died, Stage};
use crate::threads::{Progress, Reading, lock};
use actix::ArbiterHandle;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// The exit code of a process that ends because a part of it cannot be healed (`EX_SOFTWARE`).
const EXIT: i32 = 70;
/// Whoever reads the log may be what hangs: nobody waits longer for a last sentence.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks, at most.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// What is done when only the end of the process helps. By default it says why, and exits.
#[derive(Clone)]
pub struct FatalHandler(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHandler {
    /// Does this instead, with the sentence that says why.
    pub fn new(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        FatalHandler(Arc::new(act))
    }
}

impl Default for FatalHandler {
    fn default() -> Self {
        FatalHandler::new(|sentence| {
            let impatient = thread::Builder::new().spawn(|| {
                thread::sleep(LAST_WORDS);
                exit_at_once(EXIT)
            });
            drop(impatient);
            eprintln!("lnsp: {sentence}");
            exit_at_once(EXIT)
        })
    }
}

/// Ends the process while threads of its still work, without the destructors of libraries: they would wait for a thread
/// that hangs, or take from one that computes what it computes with.
#[expect(unsafe_code, reason = "the standard library only knows ends that run destructors, and an abort")]
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` takes a number, touches no memory of the process, and may be called from any thread.
    unsafe { nix::libc::_exit(code) }
}

impl fmt::Debug for FatalHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHandler")
    }
}

/// How the watchdog watches.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// Claim still for this long is hanging.
    pub deadline: Duration,
    /// See [`FatalHandler`].
    pub fatal_handler: FatalHandler,
}

impl Default for WatchSettings {
    fn default() -> Self {
        WatchSettings { deadline: Duration::from_secs(120), fatal_handler: FatalHandler::default() }
    }
}

/// The pipeline as the watchdog sees it.
pub(super) struct WatchTargets {
    /// The pipeline's thread, asked at every look whether it still answers.
    pub(super) arbiter: ArbiterHandle,
    /// While the supervisor waits for chunks to come redelivery_queue.
    pub(super) supervisor: Progress,
    /// In the order of the way.
    pub(super) hands: [Arc<TaskRegistry>; 3],
    /// Where a stage that stands still is reported dead.
    pub(super) deaths: Sender<Died>,
}

/// The thread. It ends when this is dropped.
pub(super) struct Watchdog {
    state: Arc<Mutex<WatchState>>,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct WatchState {
    patience: StallDetector,
    fatal_handler: FatalHandler,
    threads: Vec<Progress>,
    /// Of the pipeline's thread: it does something while a question is not answered.
    answer: Progress,
    pipeline: Option<WatchTargets>,
}

/// Whose reading it is.
#[derive(Clone, Copy)]
enum Subject {
    Irreplaceable,
    Stage(Stage),
}

impl Watchdog {
    /// Watches `threads` and the pipeline from now on.
    pub(super) fn start(settings: WatchSettings, threads: Vec<Progress>, pipeline: WatchTargets) -> Watchdog {
        let step = (settings.deadline / 8).min(LONGEST_STEP);
        let state = Arc::new(Mutex::new(WatchState {
            patience: StallDetector::new(settings.deadline, step, Instant::now()),
            fatal_handler: settings.fatal_handler,
            threads,
            answer: Progress::new("the pipeline's thread"),
            pipeline: Some(pipeline),
        }));
        let (end, ended) = mpsc::channel();
        let watching = state.clone();
        let thread = thread::Builder::new().name("lnsp-watchdog".to_owned()).spawn(move || {
            while ended.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
                lock(&watching).watch(Instant::now());
            }
        });
        #[expect(clippy::expect_used, reason = "a process that cannot start a thread cannot serve")]
        let thread = thread.expect("the operating system refused a thread");
        Watchdog { state, end: Some(end), thread: Some(thread) }
    }

    /// The pipeline is about to end in order; the other threads are watched on.
    pub(super) fn leave_pipeline(&self) {
        lock(&self.state).pipeline = None;
    }

    /// Threads that are at something: who, what, for how long.
    pub(super) fn at_work(&self) -> Vec<(Arc<str>, &'static str, Duration)> {
        let state = lock(&self.state);
        let doing =
            |progress: &Progress| progress.doing().map(|(what, age)| (progress.who().clone(), what, age));
        state.threads.iter().filter_map(doing).collect()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end = None;
        // The last resort may run on the watchdog's own thread and drop what holds us.
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            drop(thread.join());
        }
    }
}

impl WatchState {
    fn watch(&mut self, now: Instant) {
        let (subjects, readings) = self.read();
        if let Some(gone) = readings.iter().find(|reading| reading.gone) {
            let who = gone.who.clone();
            return self.give_up(&format!("{who} has ended, though nobody told it to"));
        }
        let StallReport { still, suspended } = self.patience.look(now, &readings);
        metrics::suspended(suspended);
        for (position, lasted) in still {
            let (subject, reading) = (subjects[position], &readings[position]);
            match subject {
                Subject::Irreplaceable => {
                    let (who, doing) = (&reading.who, reading.doing.unwrap_or_default());
                    let sentence = format!(
                        "{who} hangs: it has been {doing} for {} s without a sign of progress",
                        lasted.as_secs()
                    );
                    return self.give_up(&sentence);
                }
                Subject::Stage(stage) => self.heal(stage, reading.moves),
            }
        }
    }

    fn read(&self) -> (Vec<Subject>, Vec<Reading>) {
        let mut seen: Vec<(Subject, Reading)> =
            self.threads.iter().map(|progress| (Subject::Irreplaceable, progress.read())).collect();
        if let Some(pipeline) = &self.pipeline {
            seen.push((Subject::Irreplaceable, self.ask(&pipeline.arbiter)));
            seen.push((Subject::Irreplaceable, pipeline.supervisor()));
            seen.extend(pipeline.stages().map(|(stage, reading)| (Subject::Stage(stage), reading)));
        }
        seen.into_iter().unzip()
    }

    /// Asks the pipeline's thread for a sign of life, unless it still owes one.
    fn ask(&self, arbiter: &ArbiterHandle) -> Reading {
        let owed = self.answer.read().doing.is_some();
        let alive = owed || {
            let question = self.answer.begin("in one task, and answers nobody,");
            arbiter.spawn_fn(move || drop(question))
        };
        Reading { gone: !alive, ..self.answer.read() }
    }

    /// The stage is dead as far as anybody can tell: the supervisor is told so, and what stands still is ended.
    fn heal(&self, stage: Stage, moved: u64) {
        let Some(pipeline) = &self.pipeline else { return };
        let hands = &pipeline.hands[stage as usize];
        let Some(generation) = hands.generation_of(moved) else { return };
        // It must hear of it before the task's own end tells of a mere stop. A full queue holds news of other deaths;
        // this one is found again at the next look.
        if pipeline.deaths.try_send(Died { stage, generation, cause: "stalled" }).is_ok() {
            hands.abort(moved);
        }
    }

    /// Once: a last resort that comes back, as in tests, has nothing more to say.
    fn give_up(&mut self, sentence: &str) {
        let advice = "this cannot be mended from inside, so the service ends: start it again; nothing \
                      acknowledged is lost";
        (self.pipeline, self.threads) = (None, Vec::new());
        (self.fatal_handler.0)(&format!("{sentence}; {advice}"));
    }
}

impl WatchTargets {
    /// The supervisor stands still when it waits for chunks that nobody holds in hand.
    fn supervisor(&self) -> Reading {
        let reading = self.supervisor.read();
        let held = self.hands.iter().any(|hands| !hands.is_empty());
        Reading { doing: reading.doing.filter(|_| !held), ..reading }
    }

    /// A stage stands still when a piece of its work does.
    fn stages(&self) -> impl Iterator<Item = (Stage, Reading)> {
        Stage::ALL.into_iter().zip(&self.hands).filter_map(|(stage, hands)| {
            let moves = hands.at_work_since()?;
            let doing = Some("at one piece of work");
            Some((stage, Reading { who: stage.name().into(), moves, doing, gone: false }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::mpsc::{Receiver, channel};

    const STEP: Duration = Duration::from_secs(1);
    const DEADLINE: Duration = Duration::from_secs(2);

    /// A watchdog whose time is told by the test, and what it watches.
    struct Scene {
        state: WatchState,
        now: Instant,
        supervisor: Progress,
        hands: [Arc<TaskRegistry>; 3],
        deaths: Receiver<Died>,
        said: mpsc::Receiver<String>,
    }

    impl Scene {
        fn new() -> Scene {
            let (supervisor, hands) = (Progress::new("the supervisor"), <[Arc<TaskRegistry>; 3]>::default());
            let ((report, deaths), (say, said)) = (channel(8), mpsc::channel());
            let now = Instant::now();
            let watched = WatchTargets {
                arbiter: actix::Arbiter::current(),
                supervisor: supervisor.clone(),
                hands: hands.clone(),
                deaths: report,
            };
            let state = WatchState {
                patience: StallDetector::new(DEADLINE, STEP, now),
                fatal_handler: FatalHandler::new(move |sentence| say.send(sentence.to_owned()).unwrap()),
                threads: Vec::new(),
                answer: Progress::new("the pipeline's thread"),
                pipeline: Some(watched),
            };
            Scene { state, now, supervisor, hands, deaths, said }
        }

        /// Lets a deadline pass between two looks, in which the pipeline's thread answers.
        async fn pass_a_deadline(&mut self) {
            for _ in 0..2 {
                self.now += DEADLINE;
                self.state.watch(self.now);
                while self.state.answer.read().doing.is_some() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[actix_web::test]
    async fn a_supervisor_may_wait_for_chunks_as_long_as_somebody_holds_one() {
        let mut scene = Scene::new();
        let _waiting = scene.supervisor.begin("waiting for chunks that nobody works on");
        let hand = scene.hands[Stage::Write as usize].take(1);
        let mut wait = Box::pin(hand.wait_for("PostgreSQL", pending::<()>()));
        assert!(futures_util::poll!(&mut wait).is_pending());
        scene.pass_a_deadline().await;
        assert_eq!(scene.said.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(wait);
        drop(hand);
        scene.pass_a_deadline().await;
        let sentence = scene.said.try_recv().unwrap();
        assert!(sentence.starts_with("the supervisor hangs: it has been waiting for chunks"), "{sentence}");
        scene.pass_a_deadline().await;
        assert!(scene.said.try_recv().is_err(), "it is said once");
    }

    #[actix_web::test]
    async fn work_that_stands_still_is_reported_as_a_death_of_its_own_generation() {
        let mut scene = Scene::new();
        let _hand = scene.hands[Stage::Embed as usize].take(7);
        scene.pass_a_deadline().await;
        let died = scene.deaths.try_recv().unwrap();
        assert_eq!((died.stage, died.generation, died.cause), (Stage::Embed, 7, "stalled"));
        assert!(scene.deaths.try_recv().is_err() && scene.said.try_recv().is_err());
    }
}
