//! The index thread, the only one that writes. It decides when to build, retries failed builds, and rebuilds a damaged
//! index.

use super::builder::{CatchUp, OpenVolume, RebuildContext};
use super::delta::Snapshot;
use super::error::IndexError;
use super::live::Live;
use super::shared::{Commands, ResultSender, Shared, VerifyRequest};
use super::source::{Change, ChangeSource, StoreClock};
use super::status::RebuildReason;
use super::verify::{DifferingBlocks, GROUP, Scope, VerifyReport};
use super::volume::VolumeMeta;
use crate::threads::{lock, panic_message};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// This many consecutive failures with signs of damage cause a rebuild.
const DAMAGE_FAILURES: u32 = 2;
/// Changes that are taken into memory at a time: some milliseconds.
const PIECE: usize = 1_024;
/// The longest pause after failures, as a multiple of the first pause.
const MOST_BACKOFF: u32 = 32;

pub(super) struct IndexWriter {
    shared: Arc<Shared>,
    source: Arc<dyn ChangeSource>,
    pool: rayon::ThreadPool,
    failures: Option<BuildFailures>,
}

/// Consecutive failed builds.
struct BuildFailures {
    since: Instant,
    times: u32,
    next_try: Instant,
    message: String,
}

enum IndexJob {
    /// Builds the delta or, with `poll_source`, the changes of the source.
    Build {
        poll_source: bool,
        replies: Vec<ResultSender>,
    },
    Rebuild {
        reason: RebuildReason,
        replies: Vec<ResultSender>,
    },
    Verify(Vec<VerifyRequest>),
    /// Compares everything with a store that has another history.
    Follow(StoreClock),
    /// Reports degraded: builds have failed for longer than the grace.
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
        Ok(IndexWriter { shared, source, pool, failures: None })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Builds the changes of the source after the volume's watermark. Called once, when the index is opened.
    pub(super) fn catch_up(&mut self) -> Result<(), IndexError> {
        let clock = self.source.clock()?;
        if lock(&self.shared.stats).meta.history != clock.history {
            self.attempt(|writer| writer.follow(&clock))?;
        }
        match self.attempt(|writer| writer.build(true)) {
            Err(error) if error.is_damage() => self.attempt(|writer| writer.rebuild(RebuildReason::Corrupt)),
            result => result,
        }
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let life = shared.options.progress.live();
        loop {
            let job = shared.wait_for_job(|commands| self.next_job(commands));
            match job {
                IndexJob::End => return life.end(),
                IndexJob::Degrade => self.degrade(),
                IndexJob::Build { poll_source, replies } => {
                    let mut result = self.attempt(|writer| writer.build(poll_source));
                    let times = self.failures.as_ref().map_or(0, |failures| failures.times);
                    if times >= DAMAGE_FAILURES && result.as_ref().is_err_and(IndexError::is_damage) {
                        result = self.attempt(|writer| writer.rebuild(RebuildReason::Corrupt));
                    }
                    if result.is_err() {
                        // The changes still have to be built.
                        shared.update_commands(|commands| {
                            commands.changed_at = commands.changed_at.or_else(|| Some(Instant::now()));
                            commands.poll_source |= poll_source;
                            false
                        });
                    }
                    answer(replies, &result);
                }
                IndexJob::Verify(commands) => {
                    let repair = commands.iter().any(|command| command.repair);
                    let mut report = VerifyReport::default();
                    let result = self.attempt(|writer| {
                        report = writer.verify(repair)?;
                        Ok(())
                    });
                    for VerifyRequest { reply, .. } in commands {
                        let failed = |error: &IndexError| IndexError::BuildFailed(error.to_string());
                        // Fails only when the caller has given up.
                        drop(reply.send(result.as_ref().map(|()| report).map_err(failed)));
                    }
                }
                IndexJob::Follow(clock) => {
                    if self.attempt(|writer| writer.follow(&clock)).is_err() {
                        shared.update_commands(|commands| {
                            commands.history.get_or_insert(clock);
                            false
                        });
                    }
                }
                IndexJob::Rebuild { reason, replies } => {
                    let result = self.attempt(|writer| writer.rebuild(reason));
                    if result.is_err() {
                        // The old index is still usable; the next build from the source ends the failures.
                        shared.update_commands(|commands| std::mem::replace(&mut commands.poll_source, true));
                    }
                    answer(replies, &result);
                }
            }
        }
    }

    /// The next job, or how long to wait for one.
    fn next_job(&self, commands: &mut Commands) -> Result<IndexJob, Option<Duration>> {
        if commands.closing {
            return Ok(IndexJob::End);
        }
        if let Some((reason, _)) = commands.rebuild.first() {
            let reason = *reason;
            let replies = commands.rebuild.drain(..).map(|(_, reply)| reply).collect();
            return Ok(IndexJob::Rebuild { reason, replies });
        }
        let policy = &self.shared.options.policy;
        let now = Instant::now();
        let waits = self.failures.as_ref().is_some_and(|failures| failures.next_try > now);
        if !waits && let Some(clock) = commands.history.take() {
            return Ok(IndexJob::Follow(clock));
        }
        if !commands.verify.is_empty() {
            return Ok(IndexJob::Verify(std::mem::take(&mut commands.verify)));
        }
        let len = self.shared.live.read().unwrap_or_else(PoisonError::into_inner).delta.len();
        // A command with a waiting caller is tried at once, even after failures.
        if !commands.flush.is_empty() {
            return Ok(self.build_job(commands));
        }
        let threshold = policy.threshold(lock(&self.shared.stats).meta.items());
        let pressed = commands.pressure && len > 0;
        commands.pressure &= pressed;
        let due = if commands.poll_source || len >= threshold || pressed || self.shared.is_far_ahead() {
            Some(now)
        } else {
            let idle = commands.changed_at.map(|changed_at| changed_at + policy.idle);
            let gap = commands.gap_since.map(|since| since + policy.idle);
            idle.into_iter().chain(gap).min()
        };
        // It waits until the pause after a failure is over, see above.
        let due = if commands.history.is_some() { Some(now) } else { due };
        let due = match (&self.failures, due) {
            (Some(failures), Some(due)) => Some(due.max(failures.next_try)),
            (_, due) => due,
        };
        if due.is_some_and(|due| due <= now) {
            return Ok(self.build_job(commands));
        }
        let grace_ends = self.failures.as_ref().map(|failures| failures.since + policy.grace);
        let grace_ends = grace_ends.filter(|_| self.shared.degraded.borrow().is_none());
        if grace_ends.is_some_and(|ends| ends <= now) {
            return Ok(IndexJob::Degrade);
        }
        Err(due.into_iter().chain(grace_ends).min().map(|at| at - now))
    }

    /// A build that answers every flush command so far.
    fn build_job(&self, commands: &mut Commands) -> IndexJob {
        commands.pressure = false;
        commands.changed_at = None;
        IndexJob::Build {
            poll_source: std::mem::take(&mut commands.poll_source),
            replies: std::mem::take(&mut commands.flush),
        }
    }

    /// Runs one build or rebuild and records its result. A panic counts as a failure.
    fn attempt(
        &mut self,
        work: impl FnOnce(&IndexWriter) -> Result<(), IndexError> + Send,
    ) -> Result<(), IndexError> {
        lock(&self.shared.stats).building_since = Some(Instant::now());
        let _activity = self.shared.options.progress.begin("building the index");
        let writer: &IndexWriter = self;
        let result = catch_unwind(AssertUnwindSafe(|| writer.pool.install(|| work(writer))))
            .unwrap_or_else(|panic| Err(IndexError::Panicked(panic_message(panic.as_ref()))));
        lock(&self.shared.stats).building_since = None;
        match &result {
            Ok(()) => {
                self.failures = None;
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
        let (since, times) =
            self.failures.as_ref().map_or((now, 0), |failures| (failures.since, failures.times));
        let pause = policy.retry * 2u32.saturating_pow(times).min(MOST_BACKOFF);
        tracing::warn!(%error, times = times + 1, ?pause, "a build of the index failed; it is retried");
        self.failures = Some(BuildFailures {
            since,
            times: times + 1,
            next_try: now + pause,
            message: error.to_string(),
        });
        if now.duration_since(since) >= policy.grace {
            self.degrade();
        }
    }

    fn degrade(&self) {
        let Some(failures) = &self.failures else { return };
        if self.shared.degraded.send_replace(Some(failures.message.clone())).is_none() {
            tracing::error!(error = failures.message, "searches fall behind: the index cannot be built");
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
        self.shared.live.read().unwrap_or_else(PoisonError::into_inner).delta.snapshot()
    }

    /// Builds until all known commits are built.
    ///
    /// While commits are adjacent the delta is complete, and its own rows are built: reading them back would cost the
    /// database a quarter of what inserting them cost. The source is read only after a gap, a failed build or a poll
    /// command.
    fn build(&self, mut poll_source: bool) -> Result<(), IndexError> {
        let cancelled = || self.shared.closing();
        let volume = self.shared.volume();
        loop {
            let started = Instant::now();
            let meta = lock(&self.shared.stats).meta.clone();
            let delta = self.snapshot();
            let context = self.context(&cancelled, delta.highest_seen_seq);
            let before = meta.watermark;
            let (meta, complete) = if poll_source || delta.highest_seen_seq > delta.complete_to {
                let CatchUp { meta, changes, complete } = context.catch_up(&volume, &meta)?;
                self.caught_up(&changes);
                (meta, complete)
            } else {
                let mut changes = delta.changes();
                changes.sort_by_key(Change::seq);
                (context.increment(&volume, &meta, &changes, delta.complete_to)?, true)
            };
            drop(delta);
            if meta.watermark > before {
                let mut stats = lock(&self.shared.stats);
                stats.builds += 1;
                stats.last_build = started.elapsed();
            }
            self.publish(meta.clone());
            if complete {
                let context = self.context(&cancelled, 0);
                lock(&self.shared.stats).meta = context.plant(&volume, meta)?;
                return Ok(());
            }
            poll_source = true;
        }
    }

    /// Takes changes that were built from the source into memory, a piece at a time, because searches wait meanwhile.
    fn caught_up(&self, changes: &[Change]) {
        for piece in changes.chunks(PIECE) {
            self.live().caught_up(piece);
        }
    }

    /// Compares the volume with the source, after it has caught up.
    fn verify(&self, repair: bool) -> Result<VerifyReport, IndexError> {
        self.build(true)?;
        let volume = self.shared.volume();
        let meta = lock(&self.shared.stats).meta.clone();
        let cancelled = || self.shared.closing();
        let context = self.context(&cancelled, 0);
        let scope = Scope::UpTo(meta.watermark);
        let (mut meta, mut report) = (meta, VerifyReport::default());
        for group in context.differing_blocks(&volume, &meta)?.blocks.chunks(GROUP) {
            let (differences, changes) = context.compare((&volume, &meta), group, scope)?;
            report.add(differences);
            if repair && !changes.is_empty() {
                meta = volume.apply(&changes, meta.clone(), &context.build_params(&meta))?;
                self.mended(meta.clone(), &changes);
            }
        }
        // What was mended is in the metadata already.
        let missing = if repair { 0 } else { report.missing };
        let extra = if repair { 0 } else { report.extra };
        report.rows = meta.items() + missing - extra;
        if report.differences() == 0 {
            tracing::info!(rows = report.rows, "the index equals the database");
        } else {
            tracing::warn!(?report, repair, "the index differs from the database");
        }
        Ok(report)
    }

    /// Follows a store that has another history: after a failover that lost commits, or when it was restored from a
    /// backup. Numbers of changes and of items may mean other rows, so all of them are compared; where most differ, the
    /// index is rebuilt. Until then no change of the new history counts as reflected.
    fn follow(&self, clock: &StoreClock) -> Result<(), IndexError> {
        tracing::warn!(clock = clock.seq, "the database has another history; the index is compared with it");
        self.live().forget_delta();
        self.shared.announce(self.live().clock());
        let volume = self.shared.volume();
        let cancelled = || self.shared.closing();
        let context = self.context(&cancelled, 0);
        // Later changes are read afterwards; a row that is seen twice is the same.
        let StoreClock { seq, history } = context.query_source(|source| source.clock())?;
        let mut meta = lock(&self.shared.stats).meta.clone();
        let DifferingBlocks { blocks, of } = context.differing_blocks(&volume, &meta)?;
        if blocks.len() > GROUP.max(of / 2) {
            self.rebuild(RebuildReason::StoreRestored)?;
        } else {
            let mut report = VerifyReport::default();
            for group in blocks.chunks(GROUP) {
                let (differences, changes) = context.compare((&volume, &meta), group, Scope::Everything)?;
                report.add(differences);
                // Of the old history until all is mended: when this is interrupted, it begins again.
                meta = volume.apply(&changes, meta.clone(), &context.build_params(&meta))?;
            }
            (meta.watermark, meta.witness, meta.history) = (seq, None, history);
            let meta = volume.apply(&[], meta.clone(), &context.build_params(&meta))?;
            tracing::warn!(?report, "the index follows the other history");
            let other = Live::load(&volume, &meta, self.shared.options.policy.slots)?;
            self.live().switch_to(other);
            self.publish(meta);
        }
        self.shared.update_commands(|commands| {
            commands.poll_source = true;
            commands.history = None;
            false
        });
        Ok(())
    }

    fn live(&self) -> RwLockWriteGuard<'_, Live> {
        self.shared.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn mended(&self, meta: VolumeMeta, changes: &[Change]) {
        for piece in changes.chunks(PIECE) {
            self.live().repaired(piece);
        }
        lock(&self.shared.stats).meta = meta;
    }

    fn rebuild(&self, reason: RebuildReason) -> Result<(), IndexError> {
        tracing::warn!(reason = reason.name(), "rebuilding the index from the database");
        let cancelled = || self.shared.closing();
        let OpenVolume { volume, meta, live } =
            self.context(&cancelled, self.snapshot().highest_seen_seq).rebuild()?;
        *self.shared.volume.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(volume);
        self.live().switch_to(live);
        lock(&self.shared.stats).last_rebuild = Some(reason);
        self.publish(meta);
        Ok(())
    }

    /// After a commit to the volume: drops the built changes from the delta, which frees their slots, and publishes.
    fn publish(&self, meta: VolumeMeta) {
        let watermark = meta.watermark;
        lock(&self.shared.stats).meta = meta;
        let (garbage, clock, gap) = {
            let mut live = self.live();
            let garbage = live.built(watermark);
            (garbage, live.clock(), live.delta.gap())
        };
        drop(garbage);
        self.shared.announce(clock);
        self.shared.update_commands(|commands| {
            commands.gap_since = gap.then(Instant::now);
            false
        });
    }
}

/// Ends every wait for this thread, also after a panic.
impl Drop for IndexWriter {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.degraded.send_replace(Some(IndexError::Closed.to_string()));
        self.shared.ended.send_replace(true);
    }
}

fn answer(replies: Vec<ResultSender>, result: &Result<(), IndexError>) {
    let tell = || match result {
        Ok(()) => Ok(()),
        Err(error) => Err(IndexError::BuildFailed(error.to_string())),
    };
    for reply in replies {
        // Fails only when the caller has given up.
        drop(reply.send(tell()));
    }
}
