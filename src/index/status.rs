//! The status of the index.

use std::time::Duration;

/// Why the index was rebuilt from the committed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildReason {
    /// There was no index yet.
    Missing,
    /// The index opened vectors of another model.
    ModelChanged,
    /// The index belonged to another store.
    StoreChanged,
    /// The store was restored from a backup and has other changes since.
    StoreRestored,
    /// The index could not be read.
    Corrupt,
    /// So many changes were missing that a rebuild is faster than catching up.
    FarBehind,
    /// An operator requested it.
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
    /// The number of changes in the delta.
    pub delta_len: usize,
    /// Slots of the delta that are neither used nor reserved.
    pub free_slots: usize,
    /// Searches reflect every change up to this clock value.
    pub applied_seq: i64,
    /// The built part reflects every change up to this clock value, and no later one.
    pub built_seq: i64,
    /// The error of the builds, while acknowledgements do not wait for the index because of it.
    pub degraded: Option<String>,
    /// The reason of the last rebuild since the start of the process.
    pub last_rebuild: Option<RebuildReason>,
    /// Successful builds since the start of the process.
    pub builds: u64,
    /// Failed builds since the start of the process.
    pub failed_builds: u64,
    /// The duration of the last successful build.
    pub last_build: Duration,
    /// How long the current build has been running; `None` between builds.
    pub building_for: Option<Duration>,
    /// Committed vectors that were unusable; a search cannot find their rows.
    pub refused: u64,
    /// The bytes of the rows in memory: vectors in fewer bits, and fields.
    pub memory: usize,
    /// The bytes of the memory map in use, up to its last page.
    pub map_used: u64,
    /// The size of the memory map in bytes.
    pub map_size: usize,
}
