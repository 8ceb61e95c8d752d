//! What one run knows of one file: its ledger, the journal that keeps it, and what is shown of it.

use super::answer::UploadFailure;
use super::attempt::Listener;
use super::journal::{Journal, JournalState};
use super::ledger::{KEPT_COMPLAINTS, Ledger, LineResult, UploadTally};
use super::progress_line::ProgressLine;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The journal is written when so much time has passed since the last time, or so many lines were settled.
const PACE: Duration = Duration::from_millis(500);
const LINES: u64 = 4096;

/// Lines that the service did not take in this attempt, and could take in the next.
#[derive(Debug, Default)]
pub struct Again {
    /// The number of chunks.
    pub lines: u64,
    /// The last of them, and why.
    pub last: Option<(u64, UploadFailure)>,
}

/// See the module.
pub struct UploadState {
    ledger: Ledger,
    again: Again,
    journal: Option<Journal>,
    store: Option<String>,
    progress: ProgressLine,
    /// Settled lines that the journal has, and when it got them.
    kept: (u64, Instant),
}

impl UploadState {
    /// Nothing is settled; what will be is written to the journal, if there is one.
    pub fn new(journal: Option<Journal>, progress: ProgressLine) -> Self {
        let kept = (0, Instant::now());
        UploadState {
            ledger: Ledger::default(),
            again: Again::default(),
            journal,
            store: None,
            progress,
            kept,
        }
    }

    /// Goes on where the journal ends, and says so.
    pub fn resume(&mut self) {
        let Some(journal) = &self.journal else { return };
        match journal.read() {
            JournalState::Nothing => {}
            JournalState::Useless(why) => {
                let path = journal.path().display();
                self.progress.say(&format!("begins at its first line: the journal {path} {why}"));
            }
            JournalState::Begun { ledger, store } => {
                (self.ledger, self.store) = (ledger, store);
                let tally = self.ledger.tally();
                self.progress.say(&format!("was begun before: {tally}"));
                self.ledger.complaints().iter().for_each(|complaint| self.progress.say(complaint));
                self.progress.begin_at(tally.settled());
                self.kept.0 = tally.settled();
            }
        }
    }

    /// Sets the database behind the service, if it is known. Lines that another one has settled are sent again.
    pub fn set_store(&mut self, store: Option<String>) {
        if let (Some(before), Some(now)) = (&self.store, &store)
            && before != now
        {
            self.progress.say("begins at its first line: the service has another database now");
            (self.ledger, self.kept.0) = (Ledger::default(), 0);
            self.progress.begin_at(0);
        }
        self.store = store.or(self.store.take());
    }

    /// Starts the counts of a new attempt.
    pub fn begin_attempt(&mut self) {
        self.again = Again::default();
    }

    /// What was not taken since then.
    pub fn again(&self) -> &Again {
        &self.again
    }

    /// What is settled.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where progress is shown.
    pub fn progress(&self) -> &ProgressLine {
        &self.progress
    }

    /// The next run will find what this one settled.
    pub fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// How the settled lines were answered.
    pub fn tally(&self) -> UploadTally {
        self.ledger.tally()
    }

    /// Writes the journal if there is news for it.
    pub fn keep(&mut self) {
        let settled = self.tally().settled();
        if settled == self.kept.0 {
            return;
        }
        if let Some(journal) = &self.journal
            && let Err(error) = journal.write(&mut self.ledger, self.store.as_deref())
        {
            let sentence = format!(
                "has no journal, because {} cannot be written: {error}; it is sent all the same, but if this \
                 command is killed, the next run begins at the first line",
                journal.path().display()
            );
            self.progress.say(&sentence);
            self.journal = None;
        }
        self.kept = (settled, Instant::now());
    }

    /// Every line is settled: the journal stays only as the memory of those that failed.
    pub fn close(&mut self) {
        self.progress.finish();
        if self.tally().failed > 0 {
            return self.keep();
        }
        if let Some(journal) = &self.journal
            && let Err(error) = journal.remove()
        {
            self.progress.say(&format!("is done; {} cannot be removed: {error}", journal.path().display()));
        }
    }
}

impl Listener for UploadState {
    fn on_result(&mut self, line: u64, result: Result<LineResult, UploadFailure>) {
        match result {
            Err(failure) => {
                self.again.lines += 1;
                self.again.last = Some((line, failure));
            }
            Ok(result) => {
                let failed = self.tally().failed;
                if let Some(complaint) = self.ledger.settle(line, result) {
                    self.progress.say(&complaint);
                } else if self.tally().failed > failed && self.tally().failed == KEPT_COMPLAINTS as u64 + 1 {
                    self.progress.say("has further lines that failed; they are only counted");
                }
            }
        }
    }

    fn on_unknown_fields(&mut self, counts: &BTreeMap<String, u64>) {
        let named: Vec<String> = counts.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        let sentence = format!(
            "has fields that are not known and are kept in the metadata of their chunks: {}",
            named.join(", ")
        );
        self.progress.say(&sentence);
    }

    fn on_tick(&mut self) {
        self.progress.show(self.tally());
        let new = self.tally().settled().saturating_sub(self.kept.0);
        if new >= LINES || self.kept.1.elapsed() >= PACE {
            self.keep();
        }
    }
}
