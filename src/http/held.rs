//! What the service holds, for `/stats`. However often it is asked for, counting takes a hundredth of the time.

use crate::index::Indexes;
use crate::store::{Amount, Holdings, Store};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// An answer is kept so many times as long as counting took,
const TIMES: u32 = 100;
/// and at most for so long.
const KEPT: Duration = Duration::from_secs(10);
/// PostgreSQL has to answer within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Up to so many rows everything is counted exactly, which takes about a tenth of a second.
const COUNTED_ROWS: u64 = 100_000;

/// The last answer; a new one is made by one request, and others wait for it.
#[derive(Debug, Default)]
pub struct HeldCache(Mutex<Option<LastCount>>);

#[derive(Debug)]
struct LastCount {
    kept_until: Instant,
    counts: Result<HeldCounts, String>,
}

/// What the service held at a moment.
#[derive(Debug, Clone)]
struct HeldCounts {
    rows: u64,
    index_bytes: u64,
    holdings: Holdings,
    at: DateTime<Utc>,
}

impl HeldCache {
    /// What is held now, or was at most ten seconds ago; an object with a `problem` if it cannot be counted.
    pub async fn get(&self, store: &Store, indexes: &Indexes) -> Value {
        let mut last = self.0.lock().await;
        let counts = match &*last {
            Some(last) if Instant::now() < last.kept_until => last.counts.clone(),
            _ => {
                let began = Instant::now();
                let counts = count(store, indexes).await;
                let kept_until = Instant::now() + KEPT.min(began.elapsed() * TIMES);
                *last = Some(LastCount { kept_until, counts: counts.clone() });
                counts
            }
        };
        counts.map_or_else(|problem| json!({ "problem": problem }), |counts| counts.json())
    }
}

async fn count(store: &Store, indexes: &Indexes) -> Result<HeldCounts, String> {
    let rows = indexes.concepts.len();
    let holdings = timeout(ANSWERS_WITHIN, store.holdings(rows, COUNTED_ROWS)).await;
    let holdings = holdings.map_err(|_| format!("PostgreSQL did not answer within {ANSWERS_WITHIN:?}"))?;
    let holdings = holdings.map_err(|error| format!("PostgreSQL does not answer: {error}"))?;
    let Indexes { concepts, questions } = indexes;
    let index_bytes = concepts.status().map_used + questions.status().map_used;
    Ok(HeldCounts { rows, index_bytes, holdings, at: Utc::now() })
}

impl HeldCounts {
    fn json(&self) -> Value {
        let Holdings { documents, datasets, text_bytes, table_bytes } = self.holdings;
        let mut held = json!({
            "rows": self.rows, "index_bytes": self.index_bytes,
            "counted_at": self.at.to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        let mut estimated = Vec::new();
        for (name, amount) in [
            ("documents", documents),
            ("datasets", datasets),
            ("text_bytes", text_bytes),
            ("table_bytes", table_bytes),
        ] {
            held[name] = match amount {
                Amount::Exact(number) => json!(number),
                Amount::Estimate(number) => {
                    estimated.push(name);
                    json!(number)
                }
                Amount::Unknown => Value::Null,
            };
        }
        held["estimated"] = json!(estimated);
        held
    }
}
