//! A hook for tests that inject faults.

use super::stage::Stage;
use crate::chunk::Chunk;
use futures_util::future::BoxFuture;

/// Called with every chunk in every stage. Tests inject faults with it, one hook per service; [`NoFaults`] is the
/// service's own.
pub trait FaultHook: Send + Sync {
    /// Called in the stage's message handler: a panic here is a panic of the stage.
    fn on_begin(&self, stage: Stage, chunk: &Chunk) {
        let _ = (stage, chunk);
    }

    /// Called in each task of the stage that works on the chunk, which awaits the future as part of its work: a panic
    /// here is a panic of the task, a future that never ends is a stall.
    fn during_work(&self, stage: Stage, chunk: &Chunk) -> Option<BoxFuture<'static, ()>> {
        let _ = (stage, chunk);
        None
    }

    /// Called by the supervisor before it builds the generation with this number: a panic here is a panic of the
    /// supervisor.
    fn before_generation(&self, number: u64) {
        let _ = number;
    }
}

/// Injects no faults.
pub struct NoFaults;

impl FaultHook for NoFaults {}
