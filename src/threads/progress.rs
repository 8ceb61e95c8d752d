//! What a thread or a task is doing, so that a stall can be told from a wait.
//!
//! It says what it begins ([`Progress::begin`]), signals progress when that takes long ([`Progress::beat`],
//! [`Progress::follow`]), and says what it waits for ([`Progress::wait`]): a wait is not a stall. A record has no
//! deadline; its clock only serves the ages that are shown to people.

use super::lock::lock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The next record's id.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The record of one thread or task. Clones share it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<ProgressRecord>);

#[derive(Debug)]
struct ProgressRecord {
    id: u64,
    name: Arc<str>,
    moves: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    activity: Activity,
    /// Grows while a library call of the thread makes progress.
    meter: Option<Arc<AtomicU32>>,
    gone: bool,
}

#[derive(Debug, Clone, Copy)]
enum Activity {
    Idle,
    Working(&'static str, Instant),
    Waiting(&'static str),
}

/// A record at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Of the record: unique in the process, and larger than the ids of older records.
    pub id: u64,
    /// For people: `the thread lnsp-index`.
    pub name: Arc<str>,
    /// Changes with every sign of progress.
    pub moves: u64,
    /// The current work; `None` while it is idle or waits.
    pub doing: Option<&'static str>,
    /// The thread has ended without [`LivenessGuard::end`].
    pub gone: bool,
}

impl Progress {
    /// The record of something idle, with a name for people.
    pub fn new(name: impl Into<Arc<str>>) -> Progress {
        let state = Mutex::new(State { activity: Activity::Idle, meter: None, gone: false });
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Progress(Arc::new(ProgressRecord { id, name: name.into(), moves: AtomicU64::new(0), state }))
    }

    /// The record of the thread with this name.
    pub fn of_thread(name: &str) -> Progress {
        Progress::new(format!("the thread {name}"))
    }

    /// It works on `what` until the guard is dropped, then goes on with what it did before.
    #[must_use = "the activity ends when the guard is dropped"]
    pub fn begin(&self, what: &'static str) -> ActivityGuard {
        self.enter(Activity::Working(what, Instant::now()))
    }

    /// It waits for `what` until the guard is dropped.
    #[must_use = "the wait ends when the guard is dropped"]
    pub fn wait(&self, what: &'static str) -> ActivityGuard {
        self.enter(Activity::Waiting(what))
    }

    fn enter(&self, activity: Activity) -> ActivityGuard {
        let before = std::mem::replace(&mut lock(&self.0.state).activity, activity);
        self.beat();
        ActivityGuard { progress: self.clone(), before }
    }

    /// A sign of progress.
    pub fn beat(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on every change of this number is a sign of progress too.
    pub fn follow(&self, meter: Arc<AtomicU32>) {
        lock(&self.0.state).meter = Some(meter);
        self.beat();
    }

    /// A guard for the thread to own: dropped without [`LivenessGuard::end`], it marks the thread as gone.
    pub fn live(&self) -> LivenessGuard {
        LivenessGuard(Some(self.clone()))
    }

    /// The record as it is now.
    pub fn read(&self) -> Reading {
        let state = lock(&self.0.state);
        let meter = state.meter.as_ref().map_or(0, |meter| meter.load(Ordering::Relaxed));
        let moves = self.0.moves.load(Ordering::Relaxed).wrapping_add(meter.into());
        let doing = match state.activity {
            Activity::Working(what, _) => Some(what),
            Activity::Idle | Activity::Waiting(_) => None,
        };
        Reading { id: self.0.id, name: self.0.name.clone(), moves, doing, gone: state.gone }
    }

    /// See [`Reading::id`].
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The name for people.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The current work, and for how long.
    pub fn doing(&self) -> Option<(&'static str, Duration)> {
        match lock(&self.0.state).activity {
            Activity::Working(what, since) => Some((what, since.elapsed())),
            Activity::Idle | Activity::Waiting(_) => None,
        }
    }

    /// What it waits for now, if it waits.
    pub fn waits_for(&self) -> Option<&'static str> {
        match lock(&self.0.state).activity {
            Activity::Waiting(what) => Some(what),
            Activity::Idle | Activity::Working(..) => None,
        }
    }
}

/// Ends what [`Progress::begin`] or [`Progress::wait`] began when it is dropped.
#[derive(Debug)]
pub struct ActivityGuard {
    progress: Progress,
    before: Activity,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        lock(&self.progress.0.state).activity = self.before;
        self.progress.beat();
    }
}

/// Marks its thread as gone when it is dropped; see [`Progress::live`].
#[derive(Debug)]
pub struct LivenessGuard(Option<Progress>);

impl LivenessGuard {
    /// The thread ends as intended.
    pub fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for LivenessGuard {
    fn drop(&mut self) {
        if let Some(progress) = self.0.take() {
            lock(&progress.0.state).gone = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_ends_with_its_guard_and_the_one_before_goes_on() {
        let progress = Progress::of_thread("x");
        assert_eq!((&*progress.read().name, progress.read().doing), ("the thread x", None));
        let build = progress.begin("a build");
        assert_eq!(progress.read().doing, Some("a build"));
        let waiting = progress.wait("the database");
        assert_eq!((progress.read().doing, progress.doing()), (None, None));
        assert_eq!(progress.waits_for(), Some("the database"));
        drop(waiting);
        assert_eq!(progress.doing().map(|(what, _)| what), Some("a build"));
        drop(build);
        assert_eq!(progress.read().doing, None);
    }

    #[test]
    fn every_sign_of_progress_is_a_move() {
        let progress = Progress::new("x");
        let mut last = progress.read().moves;
        let mut moved = || std::mem::replace(&mut last, progress.read().moves) != last;
        assert!(!moved());
        let activity = progress.begin("a");
        assert!(moved());
        progress.beat();
        assert!(moved() && !moved());
        let meter = Arc::new(AtomicU32::new(0));
        progress.follow(meter.clone());
        assert!(moved());
        meter.fetch_add(5, Ordering::Relaxed);
        assert!(moved() && !moved());
        drop(activity);
        assert!(moved());
    }

    #[test]
    fn a_thread_that_ends_unexpectedly_is_gone() {
        let progress = Progress::new("x");
        progress.live().end();
        assert!(!progress.read().gone);
        let liveness = progress.live();
        assert!(
            std::thread::spawn(move || {
                let _liveness = liveness;
                panic!("on purpose")
            })
            .join()
            .is_err()
        );
        assert!(progress.read().gone);
    }
}
