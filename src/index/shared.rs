//! The state that the handle, the index thread and the readers share.

use super::delta::{Delta, DeltaSlots};
use super::folder::Folder;
use super::options::IndexOptions;
use super::search::View;
use super::source::Commit;
use super::status::{IndexStatus, RebuildReason};
use super::volume::{Record, Volume};
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
    orders: Mutex<Orders>,
    bell: Condvar,
    pub(super) account: Mutex<Account>,
    /// The thread is at its end; nothing more is built.
    pub(super) ended: watch::Sender<bool>,
    /// Last, so that the folder is unlocked after the volume is closed.
    pub(super) folder: Folder,
}

pub(super) type Reply = oneshot::Sender<Result<(), IndexError>>;

/// What the index thread has been asked for.
#[derive(Default)]
pub(super) struct Orders {
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
pub(super) struct Account {
    pub(super) record: Record,
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
    pub(super) fn new(options: IndexOptions, folder: Folder, volume: Volume, account: Account) -> Shared {
        let watermark = account.record.watermark;
        let slots = options.policy.slots.min(Semaphore::MAX_PERMITS);
        Shared {
            delta: RwLock::new(Delta::new(watermark, options.identity.dims, slots)),
            volume: RwLock::new(Arc::new(volume)),
            applied: watch::Sender::new(watermark),
            degraded: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(slots)),
            orders: Mutex::default(),
            bell: Condvar::new(),
            account: Mutex::new(account),
            ended: watch::Sender::new(false),
            folder,
            options,
        }
    }

    pub(super) fn absorb(&self, commit: Commit, slots: DeltaSlots) {
        let (len, complete_to, gap) = {
            let mut delta = self.delta.write().unwrap_or_else(PoisonError::into_inner);
            delta.absorb(commit, slots);
            (delta.len(), delta.complete_to(), delta.gap())
        };
        self.announce(complete_to);
        let threshold = self.options.policy.threshold(lock(&self.account).record.items());
        self.order(|orders| {
            let now = Instant::now();
            // The thread sleeps until its deadline; it has to be told of the first change, of a new gap and of the
            // last straw, and finds out about later changes when it looks at the clock.
            let news = orders.stirred.is_none() || (gap && orders.gap_since.is_none()) || len >= threshold;
            orders.stirred = Some(now);
            orders.gap_since = if gap { orders.gap_since.or(Some(now)) } else { None };
            news
        });
    }

    /// Leaves an order, and wakes the thread if the order says so.
    pub(super) fn order(&self, leave: impl FnOnce(&mut Orders) -> bool) {
        if leave(&mut lock(&self.orders)) {
            self.bell.notify_all();
        }
    }

    /// Waits until `ready` has something for the thread to do; it returns how long to sleep otherwise.
    pub(super) fn await_orders<T>(
        &self,
        mut ready: impl FnMut(&mut Orders) -> Result<T, Option<Duration>>,
    ) -> T {
        let mut orders = lock(&self.orders);
        loop {
            match ready(&mut orders) {
                Ok(job) => return job,
                Err(None) => orders = self.bell.wait(orders).unwrap_or_else(PoisonError::into_inner),
                Err(Some(pause)) => {
                    let woken = self.bell.wait_timeout(orders, pause);
                    orders = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Tells the thread to end. A build at work gives up, and orders are answered by the end of their replies.
    pub(super) fn close(&self) {
        self.order(|orders| {
            orders.closing = true;
            orders.flush.clear();
            orders.rebuild.clear();
            true
        });
    }

    pub(super) fn closing(&self) -> bool {
        lock(&self.orders).closing
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
        let account = lock(&self.account);
        IndexStatus {
            items: account.record.items(),
            delta_len,
            free_slots: self.slots.available_permits(),
            applied_seq: *self.applied.borrow(),
            built_seq: account.record.watermark,
            degraded: self.degraded.borrow().clone(),
            last_rebuild: account.last_rebuild,
            builds: account.builds,
            failed_builds: account.failed_builds,
            last_build: account.last_build,
            building_for: account.building_since.map(|since| since.elapsed()),
            refused,
            map_used: volume.map_used(),
            map_size: volume.map_size(),
        }
    }
}
