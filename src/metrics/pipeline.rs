//! What is counted in the pipeline: slots, waits, work and generations.

use super::names::{
    ACTOR_RESTARTS_TOTAL, ACTOR_UP, BACKPRESSURE_SECONDS_TOTAL, INFLIGHT_CHUNKS_LIMIT,
    PIPELINE_ARBITER_BUSY_SECONDS_TOTAL, PIPELINE_GENERATION, POISONED_TOTAL,
    PROCESS_SUSPENDED_SECONDS_TOTAL, STAGE_BUSY_SECONDS, STAGE_OLDEST_WORK_SECONDS, STAGE_QUEUE_CAPACITY,
    STAGE_QUEUE_LENGTH, STAGE_WAIT_SECONDS, SUSPECTS_TOTAL,
};
use std::time::Duration;

/// Sets the sum of the slots of all stages.
pub fn inflight_limit(chunks: usize) {
    INFLIGHT_CHUNKS_LIMIT.set([], chunks as f64);
}

/// Adds `change` to the slots in use: 1 for a slot that was taken, -1 for one that was released.
pub fn stage_queue(stage: &'static str, change: f64) {
    STAGE_QUEUE_LENGTH.add([stage.into()], change);
}

/// Sets the number of slots of a stage.
pub fn stage_capacity(stage: &'static str, slots: usize) {
    STAGE_QUEUE_CAPACITY.set([stage.into()], slots as f64);
}

/// Records how long a parcel waited in a stage before work on it began.
pub fn stage_wait(stage: &'static str, waited: Duration) {
    STAGE_WAIT_SECONDS.record([stage.into()], waited);
}

/// Records the duration of one piece of work of a stage.
pub fn stage_busy(stage: &'static str, took: Duration) {
    STAGE_BUSY_SECONDS.record([stage.into()], took);
}

/// Adds the time that a sender waited for a slot.
pub fn backpressure(stage: &'static str, waited: Duration) {
    BACKPRESSURE_SECONDS_TOTAL.add([stage.into()], waited);
}

/// Counts the death of a stage by its cause.
pub fn restart(actor: &'static str, cause: &'static str) {
    ACTOR_RESTARTS_TOTAL.add([actor.into(), cause.into()], 1);
}

/// Counts the chunks that a stage was working on when it died, and those of them that are rejected as poison.
pub fn suspects(stage: &'static str, suspects: u64, poisoned: u64) {
    SUSPECTS_TOTAL.add([stage.into()], suspects);
    POISONED_TOTAL.add([stage.into()], poisoned);
}

/// Sets the age of a stage's oldest piece of work, waiting included.
pub fn oldest_work(stage: &'static str, age: Duration) {
    STAGE_OLDEST_WORK_SECONDS.set([stage.into()], age.as_secs_f64());
}

/// Adds time during which the process was stopped or its machine slept.
pub fn suspended(time: Duration) {
    PROCESS_SUSPENDED_SECONDS_TOTAL.add([], time);
}

/// Sets the number of the current generation and whether it runs.
pub fn generation(number: u64, up: bool) {
    PIPELINE_GENERATION.set([], number as f64);
    ACTOR_UP.set([], f64::from(u8::from(up)));
}

/// Sets the total busy time of the pipeline's thread.
pub fn arbiter_busy(total: Duration) {
    PIPELINE_ARBITER_BUSY_SECONDS_TOTAL.absolute([], total);
}
