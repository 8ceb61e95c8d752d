//! The vector index: arroy on LMDB behind [`Index`], updated in the order of the store's clock.
//!
//! ```text
//!  commit --apply_committed--> rows in memory, delta --build--> volume (LMDB: vectors, fields, trees, watermark)
//!                                  |                               |
//!  query --------------------------+-- those that are near --------+--> compared as they were committed
//! ```
//!
//! All rows are in memory, in fewer bits ([`resident`]); a search looks at all of them, and reads only the best from the
//! volume. Stores of millions of rows have arroy's trees beside them.
//!
//! The source of truth is a [`ChangeSource`]; the index equals it up to its watermark, and can always be rebuilt from
//! it. Three rules ensure that:
//!
//! 1. A change enters the delta only after its commit, and is searchable from then on.
//! 2. Vectors, fields, trees and watermark change in one transaction.
//! 3. A commit names the range of the clock it took. Ranges that are not adjacent leave a gap, and gaps are read from
//!    the source, never skipped.
//!
//! A store has two of them, one for each [`VectorKind`]: [`Indexes`].
//!
//! All writes happen on one thread (`writer`). Of tokio this module uses only the channels and the semaphore; it
//! depends neither on the database nor on the pipeline.

mod builder;
mod delta;
mod error;
mod folder;
mod forests;
mod indexes;
mod keyword_search;
mod live;
mod nearest;
mod options;
mod readers;
mod resident;
mod search;
mod shared;
mod source;
mod status;
mod verify;
mod volume;
mod writer;

pub use delta::DeltaSlots;
pub use error::{IndexError, SourceError};
pub use indexes::{ExpectedChanges, Indexes, ReservedSlots, StoreCommit};
pub use options::{BuildPolicy, IndexIdentity, IndexOptions, VectorKind};
pub use resident::dot;
pub use search::{Effort, NearestItem, NearestItems, NearestQuery, SearchMode};
pub use source::{
    BlockDigest, ChangeSource, ChangedRow, Changes, Commit, DIGEST_ITEMS, DigestPage, OtherHistory,
    StoreClock,
};
pub use status::{IndexStatus, RebuildReason};
pub use verify::VerifyReport;

use crate::filter::Filter;
use crate::keyword::TextWords;
use crate::threads::Progress;
use readers::Readers;
use roaring::RoaringBitmap;
use shared::{IndexStats, ResultSender, Shared};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use writer::IndexWriter;

/// A handle to the open index; clones share it. Dropping the last one joins its threads. It flushes nothing, and
/// nothing is lost: the next start catches up.
#[derive(Clone)]
pub struct Index {
    inner: Arc<IndexInner>,
}

struct IndexInner {
    shared: Arc<Shared>,
    readers: Readers,
    thread: Option<JoinHandle<()>>,
}

impl Index {
    /// Opens the index, or rebuilds it, and catches up with the source. Blocks until searches reflect everything
    /// committed before the call. A rebuild of 100,000 items of 384 dimensions takes about 2 s beside what
    /// reading them takes; where there are so many that trees are built, about 35 s of processor time for each 100,000,
    /// divided among [`IndexOptions::rebuild_threads`].
    ///
    /// # Errors
    /// The folder is in use or not usable, or the source does not answer. A damaged index is no error: it is rebuilt.
    pub fn open(options: IndexOptions, source: Arc<dyn ChangeSource>) -> Result<Index, IndexError> {
        let (tell, opened) = mpsc::sync_channel(1);
        let path = options.dir.clone();
        let kind = options.identity.kind;
        // A transaction belongs to its thread, so the thread that writes also opens.
        let thread = std::thread::Builder::new().name(kind.thread().into());
        let thread = thread.spawn(move || match open_here(options, source) {
            Ok(writer) => {
                if tell.send(Ok(writer.shared())).is_ok() {
                    writer.run();
                }
            }
            // Fails only when the caller has ended.
            Err(error) => drop(tell.send(Err(error))),
        });
        let thread = thread.map_err(|error| IndexError::io(path, error))?;
        let shared = match opened.recv() {
            Ok(opened) => opened?,
            Err(_) => {
                let panic = thread.join().err().map(|panic| crate::threads::panic_message(panic.as_ref()));
                return Err(IndexError::Panicked(panic.unwrap_or_default()));
            }
        };
        let readers = Readers::start(&shared);
        Ok(Index { inner: Arc::new(IndexInner { shared, readers, thread: Some(thread) }) })
    }

    /// Reserves slots in the delta before a commit of `count` changes (rows and tombstones), and waits until they are
    /// free. Returns at once, without slots, while builds have failed for longer than the grace: commits then go on,
    /// and searches fall behind.
    pub async fn reserve(&self, count: usize) -> DeltaSlots {
        let shared = &self.inner.shared;
        let count = u32::try_from(count.min(shared.options.policy.slots)).unwrap_or(u32::MAX);
        if let Ok(permit) = shared.slots.clone().try_acquire_many_owned(count) {
            return DeltaSlots { permit: Some(permit) };
        }
        shared.update_commands(|commands| !std::mem::replace(&mut commands.pressure, true));
        let mut degraded = shared.degraded.subscribe();
        tokio::select! {
            biased;
            permit = shared.slots.clone().acquire_many_owned(count) => DeltaSlots { permit: permit.ok() },
            _ = degraded.wait_for(Option::is_some) => DeltaSlots::none(),
        }
    }

    /// Adds a commit to the delta; it is searchable when this returns. Does not wait: without slots the index records a
    /// gap and reads the commit from the source later.
    ///
    /// # Errors
    /// [`OtherHistory`] when the index does not follow the history of the commit yet. It begins to, and reads the commit
    /// from the source; [`Self::wait_for_clock`] waits for that.
    pub fn apply_committed(&self, slots: DeltaSlots, commit: Commit) -> Result<(), OtherHistory> {
        self.inner.shared.apply_committed(commit, slots)
    }

    /// Makes the index thread read the source soon. For commits that were not passed to [`Self::apply_committed`]: of
    /// another process, or of a transaction whose outcome is unknown.
    pub fn poll_source(&self) {
        self.inner.shared.update_commands(|commands| !std::mem::replace(&mut commands.poll_source, true));
    }

    /// The `k` nearest items by cosine. Blocks for some milliseconds; see [`Self::search_async`].
    ///
    /// # Errors
    /// [`IndexError::WrongDims`], [`IndexError::UnusableQuery`], or an error of the storage.
    pub fn search(&self, query: &NearestQuery<'_>) -> Result<NearestItems, IndexError> {
        self.inner.shared.search(query)
    }

    /// As [`Self::search`], on the index's own threads.
    ///
    /// # Errors
    /// As [`Self::search`], and [`IndexError::Closed`].
    pub async fn search_async(
        &self,
        vector: Arc<[f32]>,
        filter: Arc<Filter>,
        k: usize,
        effort: Effort,
    ) -> Result<NearestItems, IndexError> {
        self.inner.readers.search(vector, filter, k, effort).await
    }

    /// The `k` best rows by their words, on the index's own threads. The score is BM25 (Robertson and others, 1994),
    /// divided by that of a row of average length that has every word of the query once.
    ///
    /// # Errors
    /// [`IndexError::Closed`].
    pub async fn keyword_async(
        &self,
        words: Arc<TextWords>,
        filter: Arc<Filter>,
        k: usize,
    ) -> Result<NearestItems, IndexError> {
        self.inner.readers.keyword(words, filter, k).await
    }

    /// The `k` best rows by their vectors and their words, on the index's own threads. The score is the mean of the cosine
    /// and of that of [`Self::keyword_async`], which has this weight, 0 to 1.
    ///
    /// # Errors
    /// As [`Self::search_async`].
    pub async fn hybrid_async(
        &self,
        vector: Arc<[f32]>,
        (words, keyword_weight): (Arc<TextWords>, f32),
        filter: Arc<Filter>,
        k: usize,
    ) -> Result<NearestItems, IndexError> {
        self.inner.readers.hybrid(vector, (words, keyword_weight), filter, k).await
    }

    /// The vectors of these items as they were committed, on the index's own threads. Unknown items are missing.
    ///
    /// # Errors
    /// [`IndexError::Closed`], or an error of the storage.
    pub async fn vectors_async(&self, items: Vec<u32>) -> Result<Vec<(u32, Vec<f32>)>, IndexError> {
        self.inner.readers.vectors(items).await
    }

    /// Waits until searches reflect every change up to `seq`, and returns the clock value they reflect. Polls the
    /// source once; for later commits of other processes, call [`Self::poll_source`]. Has no timeout of its own.
    ///
    /// # Errors
    /// [`IndexError::Closed`] when the index is closed meanwhile.
    pub async fn wait_for(&self, seq: i64) -> Result<i64, IndexError> {
        if self.inner.shared.applied.borrow().seq < seq {
            self.poll_source();
        }
        self.reach(|applied| applied.seq >= seq).await
    }

    /// Waits until searches reflect this history up to this change, as [`Self::wait_for`] does.
    ///
    /// # Errors
    /// [`IndexError::Closed`] when the index is closed meanwhile.
    pub async fn wait_for_clock(&self, clock: &StoreClock) -> Result<(), IndexError> {
        self.reach(|applied| applied.history == clock.history && applied.seq >= clock.seq).await.map(drop)
    }

    async fn reach(&self, reached: impl FnMut(&StoreClock) -> bool) -> Result<i64, IndexError> {
        let mut applied = self.inner.shared.applied.subscribe();
        let mut ended = self.inner.shared.ended.subscribe();
        tokio::select! {
            biased;
            reached = applied.wait_for(reached) => {
                reached.map(|applied| applied.seq).map_err(|_| IndexError::Closed)
            }
            _ = ended.wait_for(|ended| *ended) => Err(IndexError::Closed),
        }
    }

    /// Waits until builds have failed for longer than the grace, or the index has ended.
    pub async fn degraded(&self) {
        // The sender is part of `self`, so the wait ends only with the value.
        drop(self.inner.shared.degraded.subscribe().wait_for(Option::is_some).await);
    }

    /// The progress records of its threads: the one that builds, then those that search.
    pub fn progress(&self) -> Vec<Progress> {
        let builder = self.inner.shared.options.progress.clone();
        std::iter::once(builder).chain(self.inner.readers.progress().iter().cloned()).collect()
    }

    /// Whether the index thread runs: it is neither closed nor ended.
    pub fn is_open(&self) -> bool {
        !*self.inner.shared.ended.borrow()
    }

    /// The current state, for `/health` and the metrics.
    pub fn status(&self) -> IndexStatus {
        self.inner.shared.status()
    }

    /// The store and the model whose vectors the index holds.
    pub fn identity(&self) -> &IndexIdentity {
        &self.inner.shared.options.identity
    }

    /// The set of items that a search can find.
    pub fn items(&self) -> RoaringBitmap {
        self.inner.shared.items()
    }

    /// The number of items that a search can find.
    pub fn len(&self) -> u64 {
        self.items().len()
    }

    /// Whether a search can find nothing.
    pub fn is_empty(&self) -> bool {
        self.items().is_empty()
    }

    /// The vector of an item as it was committed; `None` for an unknown item.
    ///
    /// # Errors
    /// An error of the storage.
    pub fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        self.inner.shared.vector(item)
    }

    /// Builds every commit applied before the call, and waits for it.
    ///
    /// # Errors
    /// [`IndexError::BuildFailed`] (the build is retried), or [`IndexError::Closed`].
    pub async fn flush(&self) -> Result<(), IndexError> {
        self.submit(|commands, reply| commands.flush.push(reply)).await
    }

    /// Rebuilds the index from the source, and waits for it. Searches use the old index meanwhile.
    ///
    /// # Errors
    /// [`IndexError::BuildFailed`], and the old index stays; or [`IndexError::Closed`].
    pub async fn rebuild(&self, reason: RebuildReason) -> Result<(), IndexError> {
        self.submit(|commands, reply| commands.rebuild.push((reason, reply))).await
    }

    /// Compares the index with the source, row by row where they differ, and waits for it. With `repair`, mends what
    /// differs and nothing else. Searches go on; builds wait.
    ///
    /// # Errors
    /// [`IndexError::BuildFailed`] with the reason, or [`IndexError::Closed`].
    pub async fn verify(&self, repair: bool) -> Result<VerifyReport, IndexError> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.update_commands(|commands| {
            if !commands.closing {
                commands.verify.push(shared::VerifyRequest { repair, reply });
            }
            true
        });
        answer.await.map_err(|_| IndexError::Closed)?
    }

    /// Tells the index the clock of the store, which was read after searches reflected `applied_before`. A clock of
    /// another history, or one that went back, makes the index compare all its rows with the store; it says false then,
    /// and until it has done so it should be given no changes but those of this process.
    pub fn observe(&self, clock: &StoreClock, applied_before: i64) -> bool {
        self.inner.shared.observe(clock, applied_before)
    }

    async fn submit(&self, add: impl FnOnce(&mut shared::Commands, ResultSender)) -> Result<(), IndexError> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.update_commands(|commands| {
            // After the end no command is read; the dropped sender is the answer.
            if !commands.closing {
                add(commands, reply);
            }
            true
        });
        answer.await.map_err(|_| IndexError::Closed)?
    }

    /// Ends the builds. With `flush`, builds the delta first, so that the next start has nothing to catch up. Searches
    /// still work.
    ///
    /// # Errors
    /// The last build failed. The index is closed nevertheless, and the next start catches up.
    pub async fn close(&self, flush: bool) -> Result<(), IndexError> {
        let flushed = if flush { self.flush().await } else { Ok(()) };
        self.inner.shared.close();
        flushed
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Index").field(&self.status()).finish()
    }
}

impl Drop for IndexInner {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // Panics are caught and logged where they happen.
            drop(thread.join());
        }
    }
}

/// Opens, rebuilds and catches up, on the index thread.
fn open_here(options: IndexOptions, source: Arc<dyn ChangeSource>) -> Result<IndexWriter, IndexError> {
    let folder = folder::Folder::open(&options.dir)?;
    let cancelled = &|| false;
    let context = builder::RebuildContext {
        folder: &folder,
        options: &options,
        source: &*source,
        cancelled,
        highest_seen_seq: 0,
    };
    let (builder::OpenVolume { volume, meta, live }, last_rebuild) = context.open_or_rebuild()?;
    let stats = IndexStats {
        meta,
        builds: 0,
        failed_builds: 0,
        last_build: Duration::ZERO,
        building_since: None::<Instant>,
        last_rebuild,
    };
    let shared = Arc::new(Shared::new(options, folder, (volume, live), stats));
    let mut writer = IndexWriter::new(shared, source)?;
    writer.catch_up()?;
    Ok(writer)
}
