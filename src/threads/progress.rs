//! What a thread is doing, for whoever watches whether it still moves. A leaf beside the house, like the metrics.
//!
//! A thread says what it begins ([`Progress::begin`]), gives signs of life when that takes long ([`Progress::beat`],
//! [`Progress::follow`]), and says when it waits for somebody else ([`Progress::wait`]): waiting is not hanging. It keeps
//! no deadline and knows no clock but for telling people how long it has been at something.

use super::lock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The state of one thread, or of something as single as a thread. Clones share it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    who: Arc<str>,
    moves: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    doing: Option<(&'static str, Instant)>,
    /// Counts up by itself while the thread gets on.
    meter: Option<Arc<AtomicU32>>,
    gone: bool,
}

/// What can be seen of somebody at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who it is, as a person would say: `the thread lnsp-index`.
    pub who: Arc<str>,
    /// Another number than before: it has moved since.
    pub moves: u64,
    /// What it does; nothing while it is idle or waits for somebody else.
    pub doing: Option<&'static str>,
    /// It has ended, and nobody told it to.
    pub gone: bool,
}

impl Progress {
    /// Idle.
    pub fn new(who: impl Into<Arc<str>>) -> Progress {
        let state = State { doing: None, meter: None, gone: false };
        Progress(Arc::new(Inner { who: who.into(), moves: AtomicU64::new(0), state: Mutex::new(state) }))
    }

    /// Of a thread with this name.
    pub fn of_thread(name: &str) -> Progress {
        Progress::new(format!("the thread {name}"))
    }

    /// It does `what` until the guard is dropped, then again what it did before.
    #[must_use = "it ends when the guard is dropped"]
    pub fn begin(&self, what: &'static str) -> ActivityGuard {
        self.enter(Some((what, Instant::now())))
    }

    /// It waits for somebody else until the guard is dropped.
    #[must_use = "it ends when the guard is dropped"]
    pub fn wait(&self) -> ActivityGuard {
        self.enter(None)
    }

    fn enter(&self, doing: Option<(&'static str, Instant)>) -> ActivityGuard {
        let before = std::mem::replace(&mut self.state().doing, doing);
        self.beat();
        ActivityGuard { progress: self.clone(), before }
    }

    /// It has moved.
    pub fn beat(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on it has also moved when this number changes.
    pub fn follow(&self, meter: Arc<AtomicU32>) {
        self.state().meter = Some(meter);
        self.beat();
    }

    /// Belongs into the thread: dropped without [`LivenessGuard::end`], it says that the thread is gone.
    pub fn live(&self) -> LivenessGuard {
        LivenessGuard(Some(self.clone()))
    }

    /// What can be seen now.
    pub fn read(&self) -> Reading {
        let state = self.state();
        let meter = state.meter.as_ref().map_or(0, |meter| meter.load(Ordering::Relaxed));
        let moves = self.0.moves.load(Ordering::Relaxed).wrapping_add(meter.into());
        let doing = state.doing.map(|(what, _)| what);
        Reading { who: self.0.who.clone(), moves, doing, gone: state.gone }
    }

    /// Who it is.
    pub fn who(&self) -> &Arc<str> {
        &self.0.who
    }

    /// What it does, and for how long.
    pub fn doing(&self) -> Option<(&'static str, Duration)> {
        self.state().doing.map(|(what, since)| (what, since.elapsed()))
    }

    /// Also used during unwinding; what it guards is a few words that are never half written.
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// See [`Progress::begin`] and [`Progress::wait`].
#[derive(Debug)]
pub struct ActivityGuard {
    progress: Progress,
    before: Option<(&'static str, Instant)>,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.progress.state().doing = self.before;
        self.progress.beat();
    }
}

/// See [`Progress::live`].
#[derive(Debug)]
pub struct LivenessGuard(Option<Progress>);

impl LivenessGuard {
    /// It ends as it should.
    pub fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for LivenessGuard {
    fn drop(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.state().gone = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_does_ends_with_its_guard_and_what_was_before_goes_on() {
        let progress = Progress::of_thread("x");
        assert_eq!((&*progress.read().who, progress.read().doing), ("the thread x", None));
        let build = progress.begin("a build");
        assert_eq!(progress.read().doing, Some("a build"));
        let waiting = progress.wait();
        assert_eq!((progress.read().doing, progress.doing()), (None, None));
        drop(waiting);
        assert_eq!(progress.doing().map(|(what, _)| what), Some("a build"));
        drop(build);
        assert_eq!(progress.read().doing, None);
    }

    #[test]
    fn every_sign_of_life_is_a_move() {
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
    fn a_thread_that_ends_without_being_told_is_gone() {
        let progress = Progress::new("x");
        progress.live().end();
        assert!(!progress.read().gone);
        let life = progress.live();
        assert!(
            std::thread::spawn(move || {
                let _life = life;
                panic!("on purpose")
            })
            .join()
            .is_err()
        );
        assert!(progress.read().gone);
    }
}
