//! How an index is opened. Every number has its reason here.

use crate::threads::Progress;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Whose vectors these are. An index with another identity is rebuilt, never mixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexIdentity {
    /// The store the rows live in.
    pub store_id: Uuid,
    /// The model that made the vectors.
    pub fingerprint: String,
    /// The length of its vectors.
    pub dims: usize,
}

/// How an index is opened.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder, of this index alone.
    pub dir: PathBuf,
    /// Whose vectors these are.
    pub identity: IndexIdentity,
    /// The ceiling of the memory map. It is sparse: 64 GiB cost nothing until they are filled, and it cannot be
    /// raised while open.
    pub map_size: usize,
    /// A forest of up to this many items is searched by looking at all of them: exact, and at 384 dimensions no
    /// slower than walking the trees.
    pub exact_below: u64,
    /// Trees in the forest. 50 instead of arroy's own choice of about 300: builds take a fifth of the time, and
    /// recall on clustered vectors stays above 0.95.
    pub trees: usize,
    /// Item numbers in a forest, for volumes made from now on. A build looks at a whole forest, so this bounds the
    /// time and the memory it takes; a search walks through each forest, so there should not be many. At 262,144
    /// items of 384 dimensions a build takes some 2 s, a walk 1 ms.
    pub forest_items: u32,
    /// Threads of a build while rows come in; one, because the model needs the processors more.
    pub build_threads: usize,
    /// Threads of the rebuild at the start, when nothing else runs.
    pub rebuild_threads: usize,
    /// Threads that answer [`super::Index::search_async`].
    pub read_threads: usize,
    /// When to build.
    pub policy: BuildPolicy,
    /// Of the thread that builds.
    pub progress: Progress,
}

/// Vectors in memory, in bytes, that are committed and not built.
const DELTA_BYTES: usize = 32 << 20;

/// When the index builds what has gathered in memory.
///
/// A build costs a floor that grows with its forest, beside what it costs for each change; so it is done in
/// proportion.
#[derive(Debug, Clone)]
pub struct BuildPolicy {
    /// Not for fewer changes than this,
    pub at_least: usize,
    /// nor for a smaller part of the items: one in this many,
    pub one_in: u64,
    /// but always at this many, because every search looks at all of them.
    pub at_most: usize,
    /// After this long without a new change, whatever has gathered is built. A gap is closed after this long too.
    pub idle: Duration,
    /// Changes in memory or reserved for it: beyond this, [`super::Index::reserve`] waits.
    pub slots: usize,
    /// After builds have failed for this long, acknowledgements go on without the index.
    pub grace: Duration,
    /// The pause after a failed build; doubled for each further one, up to 32 times.
    pub retry: Duration,
    /// Changes asked of the source at once.
    pub page: usize,
    /// Changes in one build at most, so that no transaction outgrows memory.
    pub increment: usize,
}

impl IndexOptions {
    /// The defaults, for a folder and an identity.
    pub fn new(dir: impl Into<PathBuf>, identity: IndexIdentity) -> Self {
        let dims = identity.dims;
        IndexOptions {
            dir: dir.into(),
            identity,
            map_size: 64 << 30,
            exact_below: 10_000,
            trees: 50,
            forest_items: 1 << 18,
            build_threads: 1,
            rebuild_threads: std::thread::available_parallelism().map_or(1, usize::from),
            read_threads: 2,
            policy: BuildPolicy::new(dims),
            progress: Progress::of_thread("lnsp-index"),
        }
    }
}

impl BuildPolicy {
    /// The defaults, for vectors of this length.
    pub fn new(dims: usize) -> Self {
        let slots = (DELTA_BYTES / (dims.max(1) * size_of::<f32>())).clamp(4_096, 32_768);
        BuildPolicy {
            // Measured at 50,000 items: four builds of 1,000 cost 1.4 s of a core, one of 4,000 costs 1.0 s. Looking
            // at 4,096 changes in memory adds 0.4 ms to a search.
            at_least: slots.min(8_192) / 2,
            one_in: 50,
            // While the one half is built, the other is filled.
            at_most: slots / 2,
            idle: Duration::from_secs(5),
            slots,
            grace: Duration::from_secs(30),
            retry: Duration::from_millis(250),
            page: 4_096,
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
