//! What all tasks of a round share: the oracle, where the service is, what has been counted, what has gone wrong.

use crate::oracle::{LedgerEntry, Oracle};
use crate::payload::Piece;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A service that no fault strikes any more is ready again this soon, beside what its first start has taken: that had
/// nothing to recover from, and tells how fast this machine is just now.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Numbers from here on belong to no client.
const OF_NO_CLIENT: u32 = 1_000_000;

/// The state that the tasks of one round share.
pub struct RoundState {
    /// The seed of this round.
    pub seed: u64,
    /// What was issued and what was answered.
    pub oracle: Oracle,
    /// Where the service listens, while it does.
    pub url: watch::Sender<Option<String>>,
    /// Chunks acknowledged.
    pub acknowledged: watch::Sender<u64>,
    /// The clients are through.
    over: watch::Sender<bool>,
    /// A promise was broken.
    failed: watch::Sender<bool>,
    /// Lines sent and not yet answered.
    unsettled: AtomicU64,
    /// The next number that belongs to no client.
    next: AtomicU32,
    report: Mutex<RoundReport>,
}

/// The numbers of a round.
#[derive(Debug, Default, Clone)]
pub struct RoundReport {
    /// How often each fault has struck.
    pub struck: BTreeMap<String, u64>,
    /// Other things that are counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// What has gone wrong.
    pub failures: Vec<String>,
    /// From the start of a process, or the end of the last fault, until it was ready.
    pub ready: Vec<Duration>,
    /// From the end of a fault until the next chunk was acknowledged.
    pub back: Vec<(&'static str, Duration)>,
    /// A fault is under way, or when the last one was over.
    calm: Calm,
    /// What was issued last, to be sent again by others.
    recent: Vec<Piece>,
    /// What was issued by clients that do not wait for answers.
    left_over: Vec<Piece>,
    /// The numbers of what a stage dies with.
    poison: Vec<u32>,
}

impl RoundReport {
    /// Of a round of which nothing else is known.
    pub fn of_failure(what: String) -> RoundReport {
        RoundReport { failures: vec![what], ..RoundReport::default() }
    }
}

#[derive(Debug, Clone, Copy)]
enum Calm {
    Since(Instant),
    Not,
}

impl Default for Calm {
    fn default() -> Calm {
        Calm::Since(Instant::now())
    }
}

impl RoundState {
    /// The state at the start of a round.
    pub fn new(seed: u64, oracle: Oracle) -> RoundState {
        RoundState {
            seed,
            oracle,
            url: watch::Sender::new(None),
            acknowledged: watch::Sender::new(0),
            over: watch::Sender::new(false),
            failed: watch::Sender::new(false),
            unsettled: AtomicU64::new(0),
            next: AtomicU32::new(OF_NO_CLIENT),
            report: Mutex::default(),
        }
    }

    fn report(&self) -> MutexGuard<'_, RoundReport> {
        self.report.lock().unwrap()
    }

    /// The numbers so far.
    pub fn numbers(&self) -> RoundReport {
        self.report().clone()
    }

    /// A promise was broken.
    pub fn fail(&self, what: String) {
        self.report().failures.push(what);
        self.failed.send_replace(true);
        self.end();
    }

    /// Something has already gone wrong.
    pub fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// The clients are through.
    pub fn end(&self) {
        self.over.send_replace(true);
    }

    /// Waits until they are.
    pub async fn over(&self) {
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }

    /// A fault has really struck, so often.
    pub fn struck(&self, fault: &str, times: u64) {
        if times > 0 {
            *self.report().struck.entry(fault.to_owned()).or_default() += times;
        }
    }

    /// Pieces that are no client's.
    pub fn pieces(&self, count: u32) -> Vec<Piece> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(Piece::new).collect()
    }

    /// A stage dies with these, of whatever content.
    pub fn poison(&self, pieces: Vec<Piece>) {
        self.report().poison = pieces.iter().map(|piece| piece.number).collect();
    }

    /// A stage dies with some pieces.
    pub fn has_poison(&self) -> bool {
        !self.report().poison.is_empty()
    }

    /// These have been issued, and no client waits for their answers.
    pub fn leave_over(&self, pieces: &[Piece]) {
        self.report().left_over.extend(pieces);
    }

    /// The pieces whose answers no client waited for.
    pub fn left_over(&self) -> Vec<Piece> {
        std::mem::take(&mut self.report().left_over)
    }

    /// One more of these.
    pub fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    /// So many more of these.
    pub fn count_many(&self, what: &'static str, many: u64) {
        *self.report().counts.entry(what).or_default() += many;
    }

    /// A fault begins.
    pub fn strikes(&self) {
        self.report().calm = Calm::Not;
    }

    /// It is over. Gives when.
    pub fn calm(&self) -> Instant {
        let now = Instant::now();
        self.report().calm = Calm::Since(now);
        now
    }

    /// After this fault the next chunk was acknowledged so late.
    pub fn back_after(&self, fault: &'static str, took: Duration) {
        self.report().back.push((fault, took));
    }

    /// A service that was started then is ready; soon enough, when no fault strikes it.
    pub fn ready(&self, started: Instant) {
        let (took, first) = {
            let report = &mut *self.report();
            let Calm::Since(calm) = report.calm else { return };
            let took = started.max(calm).elapsed();
            report.ready.push(took);
            (took, report.ready[0])
        };
        if took > first + READY_WITHIN {
            self.fail(format!("the service was ready only after {took:?}, the first time after {first:?}"));
        }
    }

    /// Where the service is, as soon as it is; `None` when there is no point in waiting any more.
    pub async fn service(&self) -> Option<String> {
        let (mut url, mut failed) = (self.url.subscribe(), self.failed.subscribe());
        tokio::select! {
            url = url.wait_for(Option::is_some) => url.ok()?.clone(),
            _ = failed.wait_for(|failed| *failed) => None,
        }
    }

    /// Tells the oracle what is about to be sent.
    pub async fn issue(&self, pieces: &[Piece]) {
        if let Err(wrong) = self.oracle.tell(LedgerEntry::Issued, pieces).await {
            self.fail(wrong);
        }
        self.count_many("issued", pieces.len() as u64);
        let recent = &mut self.report().recent;
        recent.extend(pieces);
        let old = recent.len().saturating_sub(300);
        recent.drain(..old);
    }

    /// Tells the oracle what was answered.
    pub async fn answered(&self, entry: LedgerEntry, pieces: &[Piece]) {
        if let Err(wrong) = self.oracle.tell(entry, pieces).await {
            self.fail(wrong);
        }
        let many = pieces.len() as u64;
        match entry {
            LedgerEntry::Stored => self.count_many("stored", many),
            LedgerEntry::Duplicate => self.count_many("duplicate", many),
            LedgerEntry::Conflict => self.count_many("conflict", many),
            LedgerEntry::Refused => {
                self.count_many("refused", many);
                let poison = self.report().poison.clone();
                let struck = pieces.iter().filter(|piece| poison.contains(&piece.number)).count();
                self.struck("poison", struck as u64);
            }
            LedgerEntry::Issued => {}
        }
        if matches!(entry, LedgerEntry::Stored | LedgerEntry::Duplicate) {
            self.acknowledged.send_modify(|acknowledged| *acknowledged += many);
        }
    }

    /// One of the pieces that were sent recently.
    pub fn recent(&self, draw: impl FnOnce(usize) -> usize) -> Option<Piece> {
        let recent = &self.report().recent;
        (!recent.is_empty()).then(|| recent[draw(recent.len())])
    }

    /// So many lines are on their way.
    pub fn sent(&self, lines: u64) {
        self.unsettled.fetch_add(lines, Ordering::Relaxed);
    }

    /// So many are so no longer: answered, or cut off.
    pub fn settled(&self, lines: u64) {
        self.unsettled.fetch_sub(lines, Ordering::Relaxed);
    }

    /// Whether a client waits for an answer.
    pub fn is_busy(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed) > 0
    }
}
