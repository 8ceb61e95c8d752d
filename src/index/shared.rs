//! The state that the handle, the index thread and the readers share.

use super::delta::{Delta, DeltaSlots};
use super::folder::Folder;
use super::options::IndexOptions;
use super::search::View;
use super::source::Commit;
use super::status::{IndexStatus, RebuildReason};
use super::volume::{Volume, VolumeMeta};
use super::{Effort, Found, IndexError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};

pub(super) struct Shared {
    pub(super) options: IndexOptions,
    pub(super) delta: RwLock<Delta>,
    pub(super) volume: RwLock<Arc<Volume>>,
    pub(super) applied: watch::Sender<i64>,
    /// Why builds have failed for longer than the grace, while they do.
    pub(super) degraded: watch::Sender<Option<String>>,
    pub(super) slots: Arc<Semaphore>,
    commands: Mutex<Commands>,
    wakeup: Condvar,
    pub(super) stats: Mutex<IndexStats>,
    /// The thread is at its end; nothing more is built.
    pub(super) ended: watch::Sender<bool>,
    /// Last, so that the folder is unlocked after the volume is closed.
    pub(super) folder: Folder,
}

pub(super) type Reply = oneshot::Sender<Result<(), IndexError>>;

/// What the index thread has been asked for.
#[derive(Default)]
pub(super) struct Commands {
    pub(super) flush: Vec<Reply>,
    pub(super) rebuild: Vec<(RebuildReason, Reply)>,
    /// Something may be committed that was not absorbed.
    pub(super) look: bool,
    /// Someone waits for room.
    pub(super) pressure: bool,
    pub(super) closing: bool,
    /// When the last change came.
    pub(super) stirred: Option<Instant>,
    /// Since when a gap is known.
    pub(super) gap_since: Option<Instant>,
}

/// What is only told, never acted upon, but for the record.
pub(super) struct IndexStats {
    pub(super) record: VolumeMeta,
    pub(super) builds: u64,
    pub(super) failed_builds: u64,
    pub(super) last_build: Duration,
    pub(super) building_since: Option<Instant>,
    pub(super) last_rebuild: Option<RebuildReason>,
}

/// A panic elsewhere leaves nothing half done under these locks: each section is a few assignments.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(options: IndexOptions, folder: Folder, volume: Volume, stats: IndexStats) -> Shared {
        let watermark = stats.record.watermark;
        let slots = options.policy.slots.min(Semaphore::MAX_PERMITS);
        Shared {
            delta: RwLock::new(Delta::new(watermark, options.identity.dims, slots)),
            volume: RwLock::new(Arc::new(volume)),
            applied: watch::Sender::new(watermark),
            degraded: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(slots)),
            commands: Mutex::default(),
            wakeup: Condvar::new(),
            stats: Mutex::new(stats),
            ended: watch::Sender::new(false),
            folder,
            options,
        }
    }

    pub(super) fn apply_committed(&self, commit: Commit, slots: DeltaSlots) {
        let (len, complete_to, gap) = {
            let mut delta = self.delta.write().unwrap_or_else(PoisonError::into_inner);
            delta.apply_committed(commit, slots);
            (delta.len(), delta.complete_to(), delta.gap())
        };
        self.announce(complete_to);
        let threshold = self.options.policy.threshold(lock(&self.stats).record.items());
        self.order(|commands| {
            let now = Instant::now();
            // The thread sleeps until its deadline; it has to be told of the first change, of a new gap and of the
            // last straw, and finds out about later changes when it looks at the clock.
            let news =
                commands.stirred.is_none() || (gap && commands.gap_since.is_none()) || len >= threshold;
            commands.stirred = Some(now);
            commands.gap_since = if gap { commands.gap_since.or(Some(now)) } else { None };
            news
        });
    }

    /// Leaves an order, and wakes the thread if the order says so.
    pub(super) fn order(&self, leave: impl FnOnce(&mut Commands) -> bool) {
        if leave(&mut lock(&self.commands)) {
            self.wakeup.notify_all();
        }
    }

    /// Waits until `ready` has something for the thread to do; it returns how long to sleep otherwise.
    pub(super) fn await_orders<T>(
        &self,
        mut ready: impl FnMut(&mut Commands) -> Result<T, Option<Duration>>,
    ) -> T {
        let mut commands = lock(&self.commands);
        loop {
            match ready(&mut commands) {
                Ok(job) => return job,
                Err(None) => commands = self.wakeup.wait(commands).unwrap_or_else(PoisonError::into_inner),
                Err(Some(pause)) => {
                    let woken = self.wakeup.wait_timeout(commands, pause);
                    commands = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Tells the thread to end. A build at work gives up, and commands are answered by the end of their replies.
    pub(super) fn close(&self) {
        self.order(|commands| {
            commands.closing = true;
            commands.flush.clear();
            commands.rebuild.clear();
            true
        });
    }

    pub(super) fn closing(&self) -> bool {
        lock(&self.commands).closing
    }

    /// Tells those who wait for a clock value.
    pub(super) fn announce(&self, complete_to: i64) {
        self.applied.send_if_modified(|applied| {
            let higher = complete_to > *applied;
            *applied = complete_to.max(*applied);
            higher
        });
    }

    fn view<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T, IndexError>) -> Result<T, IndexError> {
        // The order matters, see `search`.
        let delta = self.delta.read().unwrap_or_else(PoisonError::into_inner).snapshot();
        let volume = self.volume();
        look(&View { delta, volume: &volume })
    }

    pub(super) fn volume(&self) -> Arc<Volume> {
        self.volume.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn search(&self, query: &[f32], k: usize, effort: Effort) -> Result<Found, IndexError> {
        self.view(|view| view.search(&self.options, query, k, effort))
    }

    pub(super) fn items(&self) -> Result<roaring::RoaringBitmap, IndexError> {
        self.view(|view| view.items())
    }

    pub(super) fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        self.view(|view| view.vector(item))
    }

    pub(super) fn status(&self) -> IndexStatus {
        let volume = self.volume();
        let (delta_len, refused) = {
            let delta = self.delta.read().unwrap_or_else(PoisonError::into_inner);
            (delta.len(), delta.refused())
        };
        let stats = lock(&self.stats);
        IndexStatus {
            items: stats.record.items(),
            delta_len,
            free_slots: self.slots.available_permits(),
            applied_seq: *self.applied.borrow(),
            built_seq: stats.record.watermark,
            degraded: self.degraded.borrow().clone(),
            last_rebuild: stats.last_rebuild,
            builds: stats.builds,
            failed_builds: stats.failed_builds,
            last_build: stats.last_build,
            building_for: stats.building_since.map(|since| since.elapsed()),
            refused,
            map_used: volume.map_used(),
            map_size: volume.map_size(),
        }
    }
}
