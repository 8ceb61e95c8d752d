//! The settings of the pipeline.

use super::watchdog::WatchSettings;
use crate::chunk::MAX_TEXT_BYTES;
use crate::flow::{Backoff, Capacity};
use std::time::Duration;

/// The most rows in one transaction. It has those that gathered while the last one ran: a few while the database keeps
/// up, more the longer it took.
pub const WRITE_BATCH_ROWS: usize = 2048;

/// Capacities, and the times of healing.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// Slots of the first stage, for chunks that need no language model.
    pub tmd: Capacity,
    /// Slots of the first stage, for chunks that need a language model: none without one, else see
    /// [`Self::ask_at_once`].
    pub llm: Capacity,
    /// Slots of the embedder: also the window in which texts of similar length are put together.
    pub embed: Capacity,
    /// Slots of the writer.
    pub write: Capacity,
    /// Slots for chunks that wait for the outcome of another chunk with their key.
    pub followers: Capacity,
    /// One chunk at a time, from the entrance to the commit: the control of benchmarks.
    pub one_at_a_time: bool,
    /// Pauses between generations, after the first one, which follows at once.
    pub heal: Backoff,
    /// After a generation was open this long, the pauses start again with the first.
    pub calm: Duration,
    /// How long a chunk waits for the next generation before it is rejected as lost.
    pub patience: Duration,
    /// When something is stalled, and what is done then.
    pub watch: WatchSettings,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        PipelineSettings {
            // Tagging takes microseconds: enough to keep the next stage supplied.
            tmd: Capacity { items: 128, bytes: 16 * MIB },
            llm: Capacity { items: 0, bytes: 0 },
            // Several forward passes' worth, so that a batch of like lengths can be found.
            embed: Capacity { items: 512, bytes: 32 * MIB },
            // One transaction in flight and the next one gathering.
            write: Capacity { items: 2 * WRITE_BATCH_ROWS, bytes: 32 * MIB },
            followers: Capacity { items: 1024, bytes: 16 * MIB },
            one_at_a_time: false,
            heal: Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(60) },
            calm: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            watch: WatchSettings::default(),
        }
    }
}

impl PipelineSettings {
    /// Gives chunks that need a language model their slots: as many as there are calls at once, and a few more,
    /// so that the next call begins as soon as one ends. Not many more: a chunk here waits behind all of them.
    #[must_use]
    pub fn ask_at_once(mut self, calls: usize) -> Self {
        let items = calls + (calls / 4).clamp(2, 64);
        self.llm = Capacity { items, bytes: items * (MAX_TEXT_BYTES + 1024) };
        self
    }

    /// The most chunks that can be in flight: the sum of the slots.
    pub fn in_flight(&self) -> usize {
        self.tmd.items + self.llm.items + self.embed.items + self.write.items
    }
}
