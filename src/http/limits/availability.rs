//! The availability monitor: it tracks whether the database answers, whether the pipeline is open, and how fast chunks
//! are settled. So a refusal makes no call.

use crate::http::limits::admission::Unavailable;
use crate::http::state::State;
use crate::memory::release_freed;
use crate::metrics;
use crate::store::StoreError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Between two checks of the pipeline.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// Checks from one measurement of the rate to the next.
const CHECKS_PER_MEASUREMENT: u32 = 10;
/// Between two releases of freed memory.
const RELEASE_EVERY: Duration = Duration::from_secs(10);
/// Between two pings of a database that answers.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Between two pings of a database that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Starts the monitor. It ends with the state.
pub fn start_monitor(state: &Arc<State>) {
    actix_web::rt::spawn(watch_pipeline(Arc::downgrade(state)));
    actix_web::rt::spawn(watch_database(Arc::downgrade(state)));
    actix_web::rt::spawn(release_memory(Arc::downgrade(state)));
}

async fn watch_pipeline(state: Weak<State>) {
    let (mut closed_since, mut idle) = (None, true);
    for checks in 0_u32.. {
        let Some(state) = state.upgrade() else { return };
        let now = Instant::now();
        if state.pipeline.health().open {
            closed_since = None;
        } else {
            closed_since.get_or_insert(now);
        }
        let grace = state.admission.limits().grace;
        let healing = closed_since.is_some_and(|since| now - since >= grace);
        match (healing, state.admission.unavailable()) {
            (true, None) => state.admission.set_unavailable(Some(Unavailable::Healing)),
            (false, Some(Unavailable::Healing)) => state.admission.set_unavailable(None),
            _ => {}
        }
        idle &= state.counts.unanswered() == 0;
        if checks % CHECKS_PER_MEASUREMENT == 0 {
            let tally = state.counts.tally();
            // Rejected lines are answered at once and say nothing about the rate of the others.
            let settled = tally.stored + tally.duplicate;
            metrics::settled_per_second(state.admission.observe(now, settled, idle));
            idle = true;
        }
        drop(state);
        sleep(CHECK_EVERY).await;
    }
}

/// What a peak of requests took goes back to the system.
async fn release_memory(state: Weak<State>) {
    while state.strong_count() > 0 {
        sleep(RELEASE_EVERY).await;
        // It fails only when the runtime ends.
        drop(actix_web::web::block(release_freed).await);
    }
}

/// Waits for a ping that is late instead of dropping it: a dropped ping costs a connection.
async fn watch_database(state: Weak<State>) {
    let mut away_since = None;
    loop {
        let Some(strong) = state.upgrade() else { return };
        let (store, grace) = (strong.store.clone(), strong.admission.limits().grace);
        drop(strong);
        let asked = Instant::now();
        let mut answer = std::pin::pin!(store.ping());
        let answered = match timeout(grace, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                away_since.get_or_insert(asked);
                set_store_unavailable(&state, true);
                answer.await
            }
        };
        match answered {
            Ok(()) => away_since = None,
            Err(StoreError::Closed) => return,
            Err(_) => _ = away_since.get_or_insert(asked),
        }
        set_store_unavailable(&state, away_since.is_some_and(|since| since.elapsed() >= grace));
        sleep(if away_since.is_some() { RETRY_EVERY.min(grace) } else { PING_EVERY }).await;
    }
}

fn set_store_unavailable(state: &Weak<State>, away: bool) {
    let Some(state) = state.upgrade() else { return };
    match (away, state.admission.unavailable()) {
        (true, _) => state.admission.set_unavailable(Some(Unavailable::Store)),
        (false, Some(Unavailable::Store)) => state.admission.set_unavailable(None),
        (false, _) => {}
    }
}
