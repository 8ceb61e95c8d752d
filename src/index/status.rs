//! What the index says about itself.

use std::time::Duration;

/// Why the index was made anew from the committed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildReason {
    /// There was none.
    Missing,
    /// Its vectors were made by another model.
    ModelChanged,
    /// It belonged to another store.
    StoreChanged,
    /// The store was set back to an older state and has gone another way.
    StoreRestored,
    /// It could not be read.
    Corrupt,
    /// So much was missing that building once is faster than catching up.
    FarBehind,
    /// Someone asked for it.
    Manual,
}

impl RebuildReason {
    /// The stable name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            RebuildReason::Missing => "missing",
            RebuildReason::ModelChanged => "model_changed",
            RebuildReason::StoreChanged => "store_changed",
            RebuildReason::StoreRestored => "store_restored",
            RebuildReason::Corrupt => "corrupt",
            RebuildReason::FarBehind => "far_behind",
            RebuildReason::Manual => "manual",
        }
    }
}

/// The state of the index at one moment.
#[derive(Debug, Clone)]
pub struct IndexStatus {
    /// Items in the built part.
    pub items: u64,
    /// Changes in memory.
    pub delta_len: usize,
    /// Room in the delta that is neither used nor reserved.
    pub free_slots: usize,
    /// Searches reflect every change up to this clock value.
    pub applied_seq: i64,
    /// The built part reflects every change up to this clock value, and none beyond.
    pub built_seq: i64,
    /// Why acknowledgements no longer wait for the index, when they do not.
    pub degraded: Option<String>,
    /// Why the index was last made anew, in the life of this process.
    pub last_rebuild: Option<RebuildReason>,
    /// Builds that succeeded, in the life of this process.
    pub builds: u64,
    /// Builds that failed.
    pub failed_builds: u64,
    /// How long the last good build took.
    pub last_build: Duration,
    /// How long the build at work has been at it. A build that hangs shows here.
    pub building_for: Option<Duration>,
    /// Vectors that came with a commit and were no vectors; their rows cannot be found by search.
    pub refused: u64,
    /// Bytes of the memory map that were ever used.
    pub map_used: u64,
    /// The ceiling of the memory map.
    pub map_size: usize,
}
