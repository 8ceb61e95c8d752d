//! The state shared by the handle, the index thread and the readers.

use super::delta::DeltaSlots;
use super::folder::Folder;
use super::keyword_search::{HybridQuery, KeywordQuery};
use super::live::Live;
use super::options::IndexOptions;
use super::search::{NearestQuery, View};
use super::source::{Commit, OtherHistory, StoreClock};
use super::status::{IndexStatus, RebuildReason};
use super::verify::VerifyReport;
use super::volume::{Volume, VolumeMeta};
use super::{IndexError, NearestItems};
use crate::threads::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};

pub(super) struct Shared {
    pub(super) options: IndexOptions,
    pub(super) live: RwLock<Live>,
    pub(super) volume: RwLock<Arc<Volume>>,
    /// What searches reflect.
    pub(super) applied: watch::Sender<StoreClock>,
    /// The error of the builds while they have failed for longer than the grace.
    pub(super) degraded: watch::Sender<Option<String>>,
    pub(super) slots: Arc<Semaphore>,
    commands: Mutex<Commands>,
    wakeup: Condvar,
    pub(super) stats: Mutex<IndexStats>,
    /// The index thread has ended; nothing more is built.
    pub(super) ended: watch::Sender<bool>,
    /// The last field, so that the folder is unlocked after the volume is closed.
    pub(super) folder: Folder,
}

pub(super) type ResultSender = oneshot::Sender<Result<(), IndexError>>;

/// A comparison with the source, and whether what differs is mended.
pub(super) struct VerifyRequest {
    pub(super) repair: bool,
    pub(super) reply: oneshot::Sender<Result<VerifyReport, IndexError>>,
}

/// The commands to the index thread that are not done yet.
#[derive(Default)]
pub(super) struct Commands {
    pub(super) flush: Vec<ResultSender>,
    pub(super) rebuild: Vec<(RebuildReason, ResultSender)>,
    pub(super) verify: Vec<VerifyRequest>,
    /// The store has another history than the volume follows, and its clock stood here when that was seen.
    pub(super) history: Option<StoreClock>,
    /// The source may have commits that were not applied.
    pub(super) poll_source: bool,
    /// A caller waits for slots.
    pub(super) pressure: bool,
    pub(super) closing: bool,
    /// The time of the last change that is not built.
    pub(super) changed_at: Option<Instant>,
    /// Since when there is a gap.
    pub(super) gap_since: Option<Instant>,
}

/// The metadata of the volume, and figures for the status.
pub(super) struct IndexStats {
    pub(super) meta: VolumeMeta,
    pub(super) builds: u64,
    pub(super) failed_builds: u64,
    pub(super) last_build: Duration,
    pub(super) building_since: Option<Instant>,
    pub(super) last_rebuild: Option<RebuildReason>,
}

impl Shared {
    pub(super) fn new(
        options: IndexOptions,
        folder: Folder,
        (volume, live): (Volume, Live),
        stats: IndexStats,
    ) -> Shared {
        let applied = StoreClock { seq: stats.meta.watermark, history: stats.meta.history.clone() };
        let slots = options.policy.slots.min(Semaphore::MAX_PERMITS);
        Shared {
            live: RwLock::new(live),
            volume: RwLock::new(Arc::new(volume)),
            applied: watch::Sender::new(applied),
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

    pub(super) fn apply_committed(&self, commit: Commit, slots: DeltaSlots) -> Result<(), OtherHistory> {
        let (len, clock, gap) = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            if live.history != commit.history {
                drop(live);
                return Err(self.meet(StoreClock { seq: commit.upto, history: commit.history }));
            }
            live.apply_committed(commit, slots);
            (live.delta.len(), live.clock(), live.delta.gap())
        };
        self.announce(clock);
        let threshold = self.options.policy.threshold(lock(&self.stats).meta.items());
        let far_ahead = self.is_far_ahead();
        self.update_commands(|commands| {
            let now = Instant::now();
            // The thread sleeps until its deadline. Only the first change, a new gap and the change that reaches the
            // threshold wake it; it sees other changes at its deadline.
            let news = commands.changed_at.is_none()
                || (gap && commands.gap_since.is_none())
                || len >= threshold
                || far_ahead;
            commands.changed_at = Some(now);
            commands.gap_since = if gap { commands.gap_since.or(Some(now)) } else { None };
            news
        });
        Ok(())
    }

    /// Has the index thread follow this clock, whose history is another one.
    fn meet(&self, clock: StoreClock) -> OtherHistory {
        self.update_commands(|commands| {
            let news = commands.history.is_none();
            commands.history = Some(clock.clone());
            news
        });
        OtherHistory(clock)
    }

    /// Whether so many changes are not built that a build is due even if few of them hold anything for this index: the
    /// next start would read all of them.
    pub(super) fn is_far_ahead(&self) -> bool {
        let ahead = self.applied.borrow().seq - lock(&self.stats).meta.watermark;
        usize::try_from(ahead).is_ok_and(|ahead| ahead >= self.options.policy.increment)
    }

    /// Updates the commands, and wakes the index thread if `update` returns true.
    pub(super) fn update_commands(&self, update: impl FnOnce(&mut Commands) -> bool) {
        if update(&mut lock(&self.commands)) {
            self.wakeup.notify_all();
        }
    }

    /// Waits until `ready` returns a job. Its error is the time to sleep until the next call, or `None` for no limit.
    pub(super) fn wait_for_job<T>(
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

    /// Ends the index thread. A running build is cancelled, and the senders of waiting commands are dropped.
    pub(super) fn close(&self) {
        self.update_commands(|commands| {
            commands.closing = true;
            commands.flush.clear();
            commands.rebuild.clear();
            commands.verify.clear();
            true
        });
    }

    pub(super) fn closing(&self) -> bool {
        lock(&self.commands).closing
    }

    /// Publishes what searches reflect. The clock of another history may be behind.
    pub(super) fn announce(&self, clock: StoreClock) {
        self.applied.send_if_modified(|applied| {
            let news = clock.history != applied.history || clock.seq > applied.seq;
            if news {
                *applied = clock;
            }
            news
        });
    }

    /// Compares the clock of the store with what is known, and has the index thread follow another history.
    /// `applied_before` is what searches reflected before the clock was read: a commit of this process may be known
    /// before its clock. Whether the history is the one that is followed.
    pub(super) fn observe(&self, clock: &StoreClock, applied_before: i64) -> bool {
        let known = lock(&self.stats).meta.history.clone();
        let followed = known == clock.history && clock.seq >= applied_before;
        if !followed {
            self.meet(clock.clone());
        }
        followed
    }

    fn view<T>(&self, read: impl FnOnce(&View<'_>) -> Result<T, IndexError>) -> Result<T, IndexError> {
        // The order matters, see `search`.
        let (resident, complete_to) = {
            let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
            (live.resident.clone(), live.delta.complete_to())
        };
        let volume = self.volume();
        read(&View { resident, complete_to, volume: &volume })
    }

    pub(super) fn volume(&self) -> Arc<Volume> {
        self.volume.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn search(&self, query: &NearestQuery<'_>) -> Result<NearestItems, IndexError> {
        self.view(|view| view.search(&self.options, query))
    }

    pub(super) fn by_keyword(&self, query: KeywordQuery<'_>) -> Result<NearestItems, IndexError> {
        self.view(|view| Ok(view.by_keyword(query)))
    }

    pub(super) fn by_both(&self, query: HybridQuery<'_>) -> Result<NearestItems, IndexError> {
        self.view(|view| view.by_both(&self.options, query))
    }

    pub(super) fn items(&self) -> roaring::RoaringBitmap {
        self.live.read().unwrap_or_else(PoisonError::into_inner).resident.clone().items()
    }

    pub(super) fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        self.view(|view| view.vector(item))
    }

    pub(super) fn status(&self) -> IndexStatus {
        let volume = self.volume();
        let (delta_len, refused, memory) = {
            let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
            (live.delta.len(), live.delta.refused(), live.resident.memory())
        };
        let stats = lock(&self.stats);
        IndexStatus {
            items: stats.meta.items(),
            delta_len,
            free_slots: self.slots.available_permits(),
            applied_seq: self.applied.borrow().seq,
            built_seq: stats.meta.watermark,
            degraded: self.degraded.borrow().clone(),
            last_rebuild: stats.last_rebuild,
            builds: stats.builds,
            failed_builds: stats.failed_builds,
            last_build: stats.last_build,
            building_for: stats.building_since.map(|since| since.elapsed()),
            refused,
            memory,
            map_used: volume.map_used(),
            map_size: volume.map_size(),
        }
    }
}
