//! The options of an index, with the reason for each default.

use crate::threads::Progress;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Which vectors of a chunk an index holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorKind {
    /// Those of concepts, or of texts where there is none.
    #[default]
    Concept,
    /// Those of questions.
    Question,
}

impl VectorKind {
    /// The name in rows, answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            VectorKind::Concept => "concept",
            VectorKind::Question => "question",
        }
    }

    /// The name of the thread that builds; the system shows 15 characters.
    pub(super) fn thread(self) -> &'static str {
        match self {
            VectorKind::Concept => "lnsp-index",
            VectorKind::Question => "lnsp-questions",
        }
    }
}

/// The store and the model of an index. An index with another identity is rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexIdentity {
    /// The id of the store that holds the rows.
    pub store_id: Uuid,
    /// The fingerprint of the model that made the vectors.
    pub fingerprint: String,
    /// The dimensions of its vectors.
    pub dims: usize,
    /// Which vectors of the model they are.
    pub kind: VectorKind,
}

/// The options of [`super::Index::open`].
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder of the index; one index a folder.
    pub dir: PathBuf,
    /// The store and the model of the index.
    pub identity: IndexIdentity,
    /// The size of the memory map in bytes. The file is sparse: the default of 64 GiB costs nothing until it is filled.
    /// It cannot be raised while the index is open.
    pub map_size: usize,
    /// From this many items on there are trees, and searches without a filter use them. With fewer, a look at all rows
    /// in memory is faster and finds more.
    pub trees_from: u64,
    /// Trees of a forest. With 50 instead of arroy's default of about 300, builds take a fifth of the time, and recall
    /// on clustered vectors stays above 0.95.
    pub trees: usize,
    /// Item numbers of a forest, for new volumes. A build of trees reads a whole forest, so this bounds its time and
    /// memory; a search queries each forest, so there should be few.
    pub forest_items: u32,
    /// Threads of a build during ingest. One, because the model needs the processors more.
    pub build_threads: usize,
    /// Threads of the rebuild at the start, when the service does nothing else.
    pub rebuild_threads: usize,
    /// Threads that answer [`super::Index::search_async`]. Large searches have one more.
    pub read_threads: usize,
    /// When the delta is built.
    pub policy: BuildPolicy,
    /// The progress meta of the thread that builds.
    pub progress: Progress,
}

/// The memory for vectors of the delta, in bytes.
const DELTA_BYTES: usize = 32 << 20;

/// When the index builds the delta.
///
/// A build of trees has a fixed cost that grows with its forest, beside the cost of each change; so the threshold grows
/// with the number of items. Without trees a build writes the changes, and larger ones spare commits.
#[derive(Debug, Clone)]
pub struct BuildPolicy {
    /// The lowest threshold, in changes.
    pub at_least: usize,
    /// The threshold as a part of the items: one change in this many items.
    pub one_in: u64,
    /// The highest threshold, in changes: what the delta holds while the next ones come.
    pub at_most: usize,
    /// After this time without a new change the delta is built. A gap is closed after this time too.
    pub idle: Duration,
    /// The largest number of changes in the delta or reserved for it; beyond it, [`super::Index::reserve`] waits.
    pub slots: usize,
    /// After builds have failed for this time, acknowledgements no longer wait for the index.
    pub grace: Duration,
    /// The pause after a failed build; it doubles with each further one, up to 32 times this.
    pub retry: Duration,
    /// The page size of the source, in changes.
    pub page: usize,
    /// The largest number of changes in one build, so that a transaction fits into memory.
    pub increment: usize,
}

impl IndexOptions {
    /// The defaults, for a folder and an identity.
    pub fn new(dir: impl Into<PathBuf>, identity: IndexIdentity) -> Self {
        let (dims, kind) = (identity.dims, identity.kind);
        IndexOptions {
            dir: dir.into(),
            identity,
            map_size: 64 << 30,
            trees_from: 2_000_000,
            trees: 50,
            forest_items: 1 << 18,
            build_threads: 1,
            rebuild_threads: std::thread::available_parallelism().map_or(1, usize::from),
            read_threads: 2,
            policy: BuildPolicy::new(dims),
            progress: Progress::of_thread(kind.thread()),
        }
    }
}

impl BuildPolicy {
    /// The defaults, for vectors of this length.
    pub fn new(dims: usize) -> Self {
        let slots = (DELTA_BYTES / (dims.max(1) * size_of::<f32>())).clamp(4_096, 32_768);
        BuildPolicy {
            // Measured with trees, at 50,000 items: four builds of 1,000 cost 1.4 s of a core, one of 4,000 costs 1.0 s.
            at_least: slots.min(8_192) / 2,
            one_in: 50,
            // While one half is built, the other is filled.
            at_most: slots / 2,
            idle: Duration::from_secs(5),
            slots,
            grace: Duration::from_secs(30),
            retry: Duration::from_millis(250),
            // Rows are read with their texts, of up to 64 KiB.
            page: 1_024,
            increment: slots,
        }
    }

    /// The number of changes at which a build is due.
    pub(super) fn threshold(&self, items: u64) -> usize {
        let part = usize::try_from(items / self.one_in.max(1)).unwrap_or(usize::MAX);
        part.max(self.at_least).min(self.at_most).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_in_proportion() {
        let policy = BuildPolicy::new(384);
        assert_eq!((policy.slots, policy.at_most), (21_845, 10_922));
        assert_eq!(policy.threshold(0), 4_096);
        assert_eq!(policy.threshold(400_000), 8_000);
        assert_eq!(policy.threshold(10_000_000), 10_922);
    }

    #[test]
    fn long_vectors_are_fewer_in_memory() {
        let policies = [1, 768, 1 << 20].map(BuildPolicy::new);
        assert_eq!(policies.each_ref().map(|policy| policy.slots), [32_768, 10_922, 4_096]);
        assert!(
            policies.iter().all(|policy| policy.at_least <= policy.at_most && policy.at_most < policy.slots)
        );
    }
}
