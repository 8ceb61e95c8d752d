//! The vector index: arroy on LMDB behind [`Index`], following the store's clock.
//!
//! ```text
//!  commit --apply_committed--> delta (memory) --build--> volume (LMDB: vectors, trees, watermark)
//!                        |                         |
//!  query ----------------+---- snapshot, then -----+--> union by item, newer wins, tombstones mask
//! ```
//!
//! The truth is elsewhere (a [`ChangeSource`]); the index equals it up to its watermark, and everything here can be
//! thrown away and made again. Three rules carry that:
//!
//! 1. A change enters the delta only after its commit, and is searchable from then on.
//! 2. Vectors, trees and watermark change in one transaction.
//! 3. A commit says which part of the clock it took. What does not touch is a gap, and gaps are read from the
//!    source, never skipped.
//!
//! Builds and everything else that writes happen on one thread (`writer`). This module knows no runtime but for
//! tokio's channels, and neither the database nor the actors.

mod builder;
mod delta;
mod error;
mod folder;
mod forests;
mod options;
mod readers;
mod scan;
mod search;
mod shared;
mod source;
mod status;
mod volume;
mod writer;

pub use delta::DeltaSlots;
pub use error::{IndexError, SourceError};
pub use options::{BuildPolicy, IndexIdentity, IndexOptions};
pub use search::{Effort, Found, Mode};
pub use source::{ChangeSource, ChangedRow, Changes, Commit};
pub use status::{IndexStatus, RebuildReason};

use crate::threads::Progress;
use readers::Readers;
use roaring::RoaringBitmap;
use shared::{IndexStats, Reply, Shared};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use writer::IndexWriter;

/// A handle to the open index; clones share it. When the last one is dropped its threads are joined. Nothing is
/// flushed then, and nothing is lost: the next start catches up.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    readers: Readers,
    thread: Option<JoinHandle<()>>,
}

impl Index {
    /// Opens the index, or rebuilds it, and catches up with the source. Blocks until searches reflect everything
    /// that was committed when it was called; a rebuild of 100,000 items of 384 dimensions takes some 35 seconds of
    /// processor time, shared by [`IndexOptions::rebuild_threads`].
    ///
    /// # Errors
    /// The folder is in use or not usable, or the source does not answer. Damage is no error: it is rebuilt.
    pub fn open(options: IndexOptions, source: Arc<dyn ChangeSource>) -> Result<Index, IndexError> {
        let (tell, opened) = mpsc::sync_channel(1);
        let path = options.dir.clone();
        // Transactions belong to the thread that began them, so the thread that will write also opens.
        let thread = std::thread::Builder::new().name("lnsp-index".into());
        let thread = thread.spawn(move || match open_here(options, source) {
            Ok(writer) => {
                if tell.send(Ok(writer.shared())).is_ok() {
                    writer.run();
                }
            }
            // Nobody waits for it if the caller is gone.
            Err(error) => drop(tell.send(Err(error))),
        });
        let thread = thread.map_err(|error| IndexError::io(path, error))?;
        let shared = match opened.recv() {
            Ok(opened) => opened?,
            Err(_) => {
                let panic = thread.join().err().map(|panic| writer::message_of(panic.as_ref()));
                return Err(IndexError::Panicked(panic.unwrap_or_default()));
            }
        };
        let readers = Readers::start(&shared)?;
        Ok(Index { inner: Arc::new(Inner { shared, readers, thread: Some(thread) }) })
    }

    /// Waits for room in the delta, before a commit of `count` changes (rows and tombstones). Returns at once, with
    /// no room, while builds have failed for longer than the grace: then commits go on and search falls behind.
    pub async fn reserve(&self, count: usize) -> DeltaSlots {
        let shared = &self.inner.shared;
        let count = u32::try_from(count.min(shared.options.policy.slots)).unwrap_or(u32::MAX);
        if let Ok(permit) = shared.slots.clone().try_acquire_many_owned(count) {
            return DeltaSlots { permit: Some(permit) };
        }
        shared.order(|commands| !std::mem::replace(&mut commands.pressure, true));
        let mut degraded = shared.degraded.subscribe();
        tokio::select! {
            biased;
            permit = shared.slots.clone().acquire_many_owned(count) => DeltaSlots { permit: permit.ok() },
            _ = degraded.wait_for(Option::is_some) => DeltaSlots::none(),
        }
    }

    /// Takes in what was just committed; it is searchable when this returns. Cannot fail and does not wait: without
    /// room the index takes note that it is behind, and reads the commit from the source later.
    pub fn apply_committed(&self, slots: DeltaSlots, commit: Commit) {
        self.inner.shared.apply_committed(commit, slots);
    }

    /// Something may be committed that was not absorbed, by another process or in a transaction whose end was not
    /// seen: reads the source soon.
    pub fn look(&self) {
        self.inner.shared.order(|commands| !std::mem::replace(&mut commands.look, true));
    }

    /// The `k` nearest items. Blocks for some milliseconds; see [`Self::search_async`].
    ///
    /// # Errors
    /// The query vector is not one of this model, or the storage failed.
    pub fn search(&self, query: &[f32], k: usize, effort: Effort) -> Result<Found, IndexError> {
        self.inner.shared.search(query, k, effort)
    }

    /// As [`Self::search`], on the index's own threads.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn search_async(
        &self,
        query: Arc<[f32]>,
        k: usize,
        effort: Effort,
    ) -> Result<Found, IndexError> {
        self.inner.readers.search(query, k, effort).await
    }

    /// Waits until searches reflect every change up to `seq`; returns what they reflect. Looks at the source once;
    /// where others commit, someone calls [`Self::look`] when they do. Waits as long as it takes: the caller has
    /// the deadline.
    ///
    /// # Errors
    /// The index was closed meanwhile.
    pub async fn wait_for(&self, seq: i64) -> Result<i64, IndexError> {
        let mut applied = self.inner.shared.applied.subscribe();
        if *applied.borrow() < seq {
            self.look();
        }
        let mut ended = self.inner.shared.ended.subscribe();
        tokio::select! {
            biased;
            reached = applied.wait_for(|applied| *applied >= seq) => {
                reached.map(|applied| *applied).map_err(|_| IndexError::Closed)
            }
            _ = ended.wait_for(|ended| *ended) => Err(IndexError::Closed),
        }
    }

    /// Waits until builds have failed for longer than the grace, or the index has ended.
    pub async fn degraded(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.inner.shared.degraded.subscribe().wait_for(Option::is_some).await);
    }

    /// What its threads are at: the one that builds, and those that search.
    pub fn progress(&self) -> Vec<Progress> {
        let builder = self.inner.shared.options.progress.clone();
        std::iter::once(builder).chain(self.inner.readers.progress.iter().cloned()).collect()
    }

    /// The state at this moment.
    pub fn status(&self) -> IndexStatus {
        self.inner.shared.status()
    }

    /// Whose vectors these are.
    pub fn identity(&self) -> &IndexIdentity {
        &self.inner.shared.options.identity
    }

    /// The items that a search can find.
    ///
    /// # Errors
    /// The storage failed.
    pub fn items(&self) -> Result<RoaringBitmap, IndexError> {
        self.inner.shared.items()
    }

    /// How many items a search can find.
    ///
    /// # Errors
    /// The storage failed.
    pub fn len(&self) -> Result<u64, IndexError> {
        Ok(self.items()?.len())
    }

    /// Whether a search can find nothing.
    ///
    /// # Errors
    /// The storage failed.
    pub fn is_empty(&self) -> Result<bool, IndexError> {
        Ok(self.items()?.is_empty())
    }

    /// The vector of an item, as it was committed.
    ///
    /// # Errors
    /// The storage failed.
    pub fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        self.inner.shared.vector(item)
    }

    /// Builds everything that was absorbed before the call, and waits for it.
    ///
    /// # Errors
    /// The build failed (it is tried again by itself), or the index was closed.
    pub async fn flush(&self) -> Result<(), IndexError> {
        self.ask(|commands, reply| commands.flush.push(reply)).await
    }

    /// Makes the index anew from the source, and waits for it. Searches go on with the old one meanwhile.
    ///
    /// # Errors
    /// The rebuild failed and the old index stays, or the index was closed.
    pub async fn rebuild(&self, reason: RebuildReason) -> Result<(), IndexError> {
        self.ask(|commands, reply| commands.rebuild.push((reason, reply))).await
    }

    async fn ask(&self, leave: impl FnOnce(&mut shared::Commands, Reply)) -> Result<(), IndexError> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.order(|commands| {
            // After the end nobody reads commands; the reply's end is the answer.
            if !commands.closing {
                leave(commands, reply);
            }
            true
        });
        answer.await.map_err(|_| IndexError::Closed)?
    }

    /// Ends the builds; with `flush`, builds what is in memory first, so that the next start has nothing to catch
    /// up. Searches of what is there still work.
    ///
    /// # Errors
    /// The last build failed. The index is closed all the same, and the next start catches up.
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

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told where they happen.
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
    let (builder::OpenVolume { volume, record }, last_rebuild) = context.establish()?;
    let stats = IndexStats {
        record,
        builds: 0,
        failed_builds: 0,
        last_build: Duration::ZERO,
        building_since: None::<Instant>,
        last_rebuild,
    };
    let shared = Arc::new(Shared::new(options, folder, volume, stats));
    let mut writer = IndexWriter::new(shared, source)?;
    writer.catch_up()?;
    Ok(writer)
}
