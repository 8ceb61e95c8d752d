//! What tests and benches change of a service.

use crate::encoder::Encoder;
use crate::http::{CacheLimits, Limits};
use crate::index::IndexOptions;
use crate::pipeline::PipelineSettings;
use crate::stages::{FaultHook, NoFaults};
use crate::store::StoreTimeouts;
use std::sync::Arc;
use std::time::Duration;

/// What tests and benches change. The service itself uses the default.
pub struct Overrides {
    /// The settings of the pipeline.
    pub pipeline: PipelineSettings,
    /// Called by the stages for every chunk.
    pub fault_hook: Arc<dyn FaultHook>,
    /// Replaces the model: called on each of its threads.
    pub encoder: Option<EncoderFactory>,
    /// Changes how the index is opened.
    pub index: fn(&mut IndexOptions),
    /// The limits of admission, except for the number of uploads, which is a setting.
    pub admission: Limits,
    /// The limits of the idempotency cache.
    pub memory: CacheLimits,
    /// How often the counts of accesses are written.
    pub write_accesses: Duration,
    /// How long calls of the store wait.
    pub store: StoreTimeouts,
    /// How often `auto` looks for a language model that was not there at the start.
    pub look_for_llm: Duration,
}

/// Builds an encoder on the thread it will stay on.
pub type EncoderFactory = Arc<dyn Fn() -> Box<dyn Encoder> + Send + Sync>;

impl Default for Overrides {
    fn default() -> Self {
        Overrides {
            pipeline: PipelineSettings::default(),
            fault_hook: Arc::new(NoFaults),
            encoder: None,
            index: |_| {},
            admission: Limits::default(),
            memory: CacheLimits::default(),
            write_accesses: Duration::from_secs(5),
            store: StoreTimeouts::default(),
            look_for_llm: Duration::from_secs(60),
        }
    }
}
