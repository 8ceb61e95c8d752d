//! The index thread: the only place that writes. It decides when to build, keeps trying when a build fails, and
//! heals what is damaged.

use super::builder::{OpenVolume, RebuildContext};
use super::delta::Snapshot;
use super::error::IndexError;
use super::shared::{Commands, Reply, Shared, lock};
use super::source::ChangeSource;
use super::status::RebuildReason;
use super::volume::VolumeMeta;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// So many failures in a row that look like damage are not bad luck.
const DAMAGE_FAILURES: u32 = 2;
/// The longest pause after failures, as a multiple of the first.
const MOST_BACKOFF: u32 = 32;

pub(super) struct IndexWriter {
    shared: Arc<Shared>,
    source: Arc<dyn ChangeSource>,
    pool: rayon::ThreadPool,
    failing: Option<Failing>,
}

/// A row of failed builds.
struct Failing {
    since: Instant,
    times: u32,
    next_try: Instant,
    message: String,
}

enum Job {
    /// Build what is here, or, with `look`, what the source has.
    Build {
        look: bool,
        replies: Vec<Reply>,
    },
    Rebuild {
        reason: RebuildReason,
        replies: Vec<Reply>,
    },
    /// The grace is over.
    Degrade,
    End,
}

impl IndexWriter {
    pub(super) fn new(shared: Arc<Shared>, source: Arc<dyn ChangeSource>) -> Result<IndexWriter, IndexError> {
        // A build runs as a whole inside the pool, so that its transaction stays on one thread.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(shared.options.build_threads.max(1))
            .thread_name(|n| format!("lnsp-index-{n}"))
            .build()
            .map_err(|error| IndexError::io(shared.folder.path(), std::io::Error::other(error)))?;
        Ok(IndexWriter { shared, source, pool, failing: None })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Builds what the source has beyond the volume: the first thing in the life of an index.
    pub(super) fn catch_up(&mut self) -> Result<(), IndexError> {
        match self.attempt(|writer| writer.build(true)) {
            Err(error) if error.is_damage() => self.attempt(|writer| writer.rebuild(RebuildReason::Corrupt)),
            result => result,
        }
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let life = shared.options.progress.live();
        loop {
            let job = shared.await_orders(|commands| self.next_job(commands));
            match job {
                Job::End => return life.end(),
                Job::Degrade => self.degrade(),
                Job::Build { look, replies } => {
                    let mut result = self.attempt(|writer| writer.build(look));
                    let times = self.failing.as_ref().map_or(0, |failing| failing.times);
                    if times >= DAMAGE_FAILURES && result.as_ref().is_err_and(IndexError::is_damage) {
                        result = self.attempt(|writer| writer.rebuild(RebuildReason::Corrupt));
                    }
                    if result.is_err() {
                        // What was left to do is still to do.
                        shared.order(|commands| {
                            commands.stirred = commands.stirred.or_else(|| Some(Instant::now()));
                            commands.look |= look;
                            false
                        });
                    }
                    answer(replies, &result);
                }
                Job::Rebuild { reason, replies } => {
                    let result = self.attempt(|writer| writer.rebuild(reason));
                    if result.is_err() {
                        // The old index is still good; a look shows that, and ends the row of failures.
                        shared.order(|commands| std::mem::replace(&mut commands.look, true));
                    }
                    answer(replies, &result);
                }
            }
        }
    }

    /// What is to be done now, or how long there is nothing to do.
    fn next_job(&self, commands: &mut Commands) -> Result<Job, Option<Duration>> {
        if commands.closing {
            return Ok(Job::End);
        }
        if let Some((reason, _)) = commands.rebuild.first() {
            let reason = *reason;
            let replies = commands.rebuild.drain(..).map(|(_, reply)| reply).collect();
            return Ok(Job::Rebuild { reason, replies });
        }
        let policy = &self.shared.options.policy;
        let now = Instant::now();
        let len = self.shared.delta.read().unwrap_or_else(PoisonError::into_inner).len();
        // Commands that someone waits for are tried at once, even in a row of failures.
        if !commands.flush.is_empty() {
            return Ok(self.start(commands));
        }
        let threshold = policy.threshold(lock(&self.shared.stats).record.items());
        let pressed = commands.pressure && len > 0;
        commands.pressure &= pressed;
        let due = if commands.look || len >= threshold || pressed {
            Some(now)
        } else {
            let idle = commands.stirred.map(|stirred| stirred + policy.idle);
            let gap = commands.gap_since.map(|since| since + policy.idle);
            idle.into_iter().chain(gap).min()
        };
        let due = match (&self.failing, due) {
            (Some(failing), Some(due)) => Some(due.max(failing.next_try)),
            (_, due) => due,
        };
        if due.is_some_and(|due| due <= now) {
            return Ok(self.start(commands));
        }
        let grace_ends = self.failing.as_ref().map(|failing| failing.since + policy.grace);
        let grace_ends = grace_ends.filter(|_| self.shared.degraded.borrow().is_none());
        if grace_ends.is_some_and(|ends| ends <= now) {
            return Ok(Job::Degrade);
        }
        Err(due.into_iter().chain(grace_ends).min().map(|at| at - now))
    }

    /// A build answers every order that was left before it.
    fn start(&self, commands: &mut Commands) -> Job {
        commands.pressure = false;
        commands.stirred = None;
        Job::Build { look: std::mem::take(&mut commands.look), replies: std::mem::take(&mut commands.flush) }
    }

    /// Runs one piece of work; a panic in it is a failure like any other.
    fn attempt(
        &mut self,
        work: impl FnOnce(&IndexWriter) -> Result<(), IndexError> + Send,
    ) -> Result<(), IndexError> {
        lock(&self.shared.stats).building_since = Some(Instant::now());
        let _activity = self.shared.options.progress.begin("building the index");
        let writer: &IndexWriter = self;
        let result = catch_unwind(AssertUnwindSafe(|| writer.pool.install(|| work(writer))))
            .unwrap_or_else(|panic| Err(IndexError::Panicked(message_of(panic.as_ref()))));
        lock(&self.shared.stats).building_since = None;
        match &result {
            Ok(()) => {
                self.failing = None;
                self.shared.degraded.send_if_modified(|degraded| degraded.take().is_some());
            }
            Err(_) if self.shared.closing() => {}
            Err(error) => {
                lock(&self.shared.stats).failed_builds += 1;
                self.note_failure(error);
            }
        }
        result
    }

    fn note_failure(&mut self, error: &IndexError) {
        let policy = &self.shared.options.policy;
        let now = Instant::now();
        let (since, times) = self.failing.as_ref().map_or((now, 0), |failing| (failing.since, failing.times));
        let pause = policy.retry * 2u32.saturating_pow(times).min(MOST_BACKOFF);
        tracing::warn!(%error, times = times + 1, ?pause, "a build of the index failed; it is tried again");
        self.failing =
            Some(Failing { since, times: times + 1, next_try: now + pause, message: error.to_string() });
        if now.duration_since(since) >= policy.grace {
            self.degrade();
        }
    }

    fn degrade(&self) {
        let Some(failing) = &self.failing else { return };
        if self.shared.degraded.send_replace(Some(failing.message.clone())).is_none() {
            tracing::error!(error = failing.message, "search falls behind: the index cannot be built");
        }
    }

    fn context<'a>(
        &'a self,
        cancelled: &'a (dyn Fn() -> bool + Sync),
        highest_seen_seq: i64,
    ) -> RebuildContext<'a> {
        let Shared { folder, options, .. } = &*self.shared;
        RebuildContext { folder, options, source: &*self.source, cancelled, highest_seen_seq }
    }

    fn snapshot(&self) -> Snapshot {
        self.shared.delta.read().unwrap_or_else(PoisonError::into_inner).snapshot()
    }

    /// Builds until everything that is known of is built.
    ///
    /// While commits touch each other the delta is complete, and its own rows are built: reading them back from the
    /// database would cost it as much as a quarter of inserting them. Only a gap, a failed build or an order to look
    /// sends us to the source.
    fn build(&self, mut look: bool) -> Result<(), IndexError> {
        let cancelled = || self.shared.closing();
        let volume = self.shared.volume();
        loop {
            let started = Instant::now();
            let record = lock(&self.shared.stats).record.clone();
            let delta = self.snapshot();
            let context = self.context(&cancelled, delta.highest_seen_seq);
            let before = record.watermark;
            let (record, complete) = if look || delta.highest_seen_seq > delta.complete_to {
                context.catch_up(&volume, &record)?
            } else {
                let mut changes = delta.changes();
                changes.sort_by_key(super::source::Change::seq);
                (context.increment(&volume, &record, &changes, delta.complete_to)?, true)
            };
            drop(delta);
            if record.watermark > before {
                let mut stats = lock(&self.shared.stats);
                stats.builds += 1;
                stats.last_build = started.elapsed();
            }
            self.publish(record);
            if complete {
                return Ok(());
            }
            look = true;
        }
    }

    fn rebuild(&self, reason: RebuildReason) -> Result<(), IndexError> {
        tracing::warn!(reason = reason.name(), "rebuilding the index from the database");
        let cancelled = || self.shared.closing();
        let OpenVolume { volume, record } =
            self.context(&cancelled, self.snapshot().highest_seen_seq).rebuild()?;
        *self.shared.volume.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(volume);
        lock(&self.shared.stats).last_rebuild = Some(reason);
        self.publish(record);
        Ok(())
    }

    /// After a commit to the volume: the delta forgets what is built, its room is free, waiters are told.
    fn publish(&self, record: VolumeMeta) {
        let watermark = record.watermark;
        lock(&self.shared.stats).record = record;
        let (garbage, complete_to, gap) = {
            let mut delta = self.shared.delta.write().unwrap_or_else(PoisonError::into_inner);
            let garbage = delta.built(watermark);
            (garbage, delta.complete_to(), delta.gap())
        };
        drop(garbage);
        self.shared.announce(complete_to);
        self.shared.order(|commands| {
            commands.gap_since = gap.then(Instant::now);
            false
        });
    }
}

/// However the thread ends, nobody may go on waiting for it.
impl Drop for IndexWriter {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.degraded.send_replace(Some(IndexError::Closed.to_string()));
        self.shared.ended.send_replace(true);
    }
}

fn answer(replies: Vec<Reply>, result: &Result<(), IndexError>) {
    let tell = || match result {
        Ok(()) => Ok(()),
        Err(error) => Err(IndexError::BuildFailed(error.to_string())),
    };
    for reply in replies {
        // Whoever asked may have gone away.
        drop(reply.send(tell()));
    }
}

/// The text of a panic, when it has one.
pub(super) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
}
