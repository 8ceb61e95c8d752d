//! Knows beforehand what a refusal has to know: whether the database answers, whether the pipeline is open, and how
//! fast chunks are settled. So a refusal costs no question to anybody.

use crate::http::limits::admission::Unavailable;
use crate::http::state::State;
use crate::metrics;
use crate::store::StoreError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Between two looks at what is in memory.
const LOOK: Duration = Duration::from_millis(100);
/// Looks from one measurement of the rate to the next.
const LOOKS_A_MEASUREMENT: u32 = 10;
/// Between two questions to a database that answers.
const ASK: Duration = Duration::from_secs(1);
/// Between two questions to one that does not.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Looks out until the state is gone.
pub fn post(state: &Arc<State>) {
    actix_web::rt::spawn(look(Arc::downgrade(state)));
    actix_web::rt::spawn(ask(Arc::downgrade(state)));
}

/// What is in memory.
async fn look(state: Weak<State>) {
    let (mut closed_since, mut idle) = (None, true);
    for looks in 0_u32.. {
        let Some(state) = state.upgrade() else { return };
        let now = Instant::now();
        if state.pipeline.health().open {
            closed_since = None;
        } else {
            closed_since.get_or_insert(now);
        }
        let moment = state.admission.limits().moment;
        let healing = closed_since.is_some_and(|since| now - since >= moment);
        match (healing, state.admission.obstacle()) {
            (true, None) => state.admission.set_obstacle(Some(Unavailable::Healing)),
            (false, Some(Unavailable::Healing)) => state.admission.set_obstacle(None),
            _ => {}
        }
        idle &= state.counts.unanswered() == 0;
        if looks % LOOKS_A_MEASUREMENT == 0 {
            let tally = state.counts.tally();
            // Bad lines are answered at once: they say nothing about the rate of the others.
            let settled = tally.stored + tally.duplicate;
            metrics::settled_per_second(state.admission.observe(now, settled, idle));
            idle = true;
        }
        drop(state);
        sleep(LOOK).await;
    }
}

/// The database. A question that is not answered is waited for: one that is abandoned costs a connection.
async fn ask(state: Weak<State>) {
    let mut away_since = None;
    loop {
        let Some(strong) = state.upgrade() else { return };
        let (store, moment) = (strong.store.clone(), strong.admission.limits().moment);
        drop(strong);
        let asked = Instant::now();
        let mut answer = std::pin::pin!(store.ping());
        let answered = match timeout(moment, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                away_since.get_or_insert(asked);
                say(&state, true);
                answer.await
            }
        };
        match answered {
            Ok(()) => away_since = None,
            Err(StoreError::Closed) => return,
            Err(_) => _ = away_since.get_or_insert(asked),
        }
        say(&state, away_since.is_some_and(|since| since.elapsed() >= moment));
        sleep(if away_since.is_some() { ASK_AGAIN.min(moment) } else { ASK }).await;
    }
}

fn say(state: &Weak<State>, away: bool) {
    let Some(state) = state.upgrade() else { return };
    match (away, state.admission.obstacle()) {
        (true, _) => state.admission.set_obstacle(Some(Unavailable::StoreAway)),
        (false, Some(Unavailable::StoreAway)) => state.admission.set_obstacle(None),
        (false, _) => {}
    }
}
