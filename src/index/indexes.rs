//! The two indexes of a store: of concept vectors, and of question vectors. Both follow the same clock.
//!
//! Slots are always reserved in the same order, concepts first. Builds free slots without a further reservation, so two
//! callers cannot wait for each other.

use super::delta::DeltaSlots;
use super::error::IndexError;
use super::source::{ChangedRow, Commit, StoreClock};
use super::{Index, OtherHistory, RebuildReason};
use crate::threads::Progress;
use std::sync::Arc;

/// Handles of both indexes; clones share them.
#[derive(Clone, Debug)]
pub struct Indexes {
    /// Of concepts: every stored chunk is in it.
    pub concepts: Index,
    /// Of questions: the chunks that have one.
    pub questions: Index,
}

/// The most changes of a commit, for the reservation before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpectedChanges {
    /// Rows and tombstones for the index of concepts.
    pub concepts: usize,
    /// The same for that of questions.
    pub questions: usize,
}

/// Slots in both deltas.
#[derive(Debug, Default)]
pub struct ReservedSlots {
    concepts: DeltaSlots,
    questions: DeltaSlots,
}

/// One committed transaction, as both indexes hear of it.
#[derive(Debug, Clone, Default)]
pub struct StoreCommit {
    /// The history that counted it; see [`super::StoreClock::history`].
    pub history: Arc<str>,
    /// The clock before the transaction.
    pub after: i64,
    /// The clock after the transaction.
    pub upto: i64,
    /// New and changed rows, with their concept vectors.
    pub concepts: Vec<ChangedRow>,
    /// Those of them that have a question, with its vector.
    pub questions: Vec<ChangedRow>,
    /// Those of them that may have had a question before and have none now, as `(seq, item)`.
    pub without_question: Vec<(i64, u32)>,
    /// Deleted rows, as `(seq, item)`.
    pub tombstones: Vec<(i64, u32)>,
}

impl Indexes {
    /// Reserves slots in both, and waits for them, as [`Index::reserve`] does.
    pub async fn reserve(&self, expected: ExpectedChanges) -> ReservedSlots {
        let concepts = self.concepts.reserve(expected.concepts).await;
        let questions = self.questions.reserve(expected.questions).await;
        ReservedSlots { concepts, questions }
    }

    /// Adds a commit to both deltas; it is searchable when this returns. Does not wait.
    ///
    /// # Errors
    /// As [`Index::apply_committed`].
    pub fn apply_committed(&self, slots: ReservedSlots, commit: StoreCommit) -> Result<(), OtherHistory> {
        let StoreCommit { history, after, upto, concepts, questions, mut without_question, tombstones } =
            commit;
        without_question.extend(&tombstones);
        // Keywords are searched in texts, which the other index has.
        let questions = questions.into_iter().map(ChangedRow::without_words).collect();
        let of_questions =
            Commit { history: history.clone(), after, upto, rows: questions, tombstones: without_question };
        let of_concepts = Commit { history, after, upto, rows: concepts, tombstones };
        let questions = self.questions.apply_committed(slots.questions, of_questions);
        self.concepts.apply_committed(slots.concepts, of_concepts).and(questions)
    }

    /// Waits until searches of both reflect a change that was of another history; see [`Index::wait_for_clock`].
    ///
    /// # Errors
    /// [`IndexError::Closed`] when one is closed meanwhile.
    pub async fn wait_for_clock(&self, clock: &StoreClock) -> Result<(), IndexError> {
        self.concepts.wait_for_clock(clock).await?;
        self.questions.wait_for_clock(clock).await
    }

    /// The index threads read the source soon; see [`Index::poll_source`].
    pub fn poll_source(&self) {
        self.concepts.poll_source();
        self.questions.poll_source();
    }

    /// Waits until searches of both reflect every change up to `seq`.
    ///
    /// # Errors
    /// [`IndexError::Closed`] when one is closed meanwhile.
    pub async fn wait_for(&self, seq: i64) -> Result<(), IndexError> {
        self.concepts.wait_for(seq).await?;
        self.questions.wait_for(seq).await.map(drop)
    }

    /// Waits until the builds of one have failed for longer than the grace.
    pub async fn degraded(&self) {
        tokio::select! {
            () = self.concepts.degraded() => {}
            () = self.questions.degraded() => {}
        }
    }

    /// Searches of both reflect every change up to this clock value.
    pub fn applied_seq(&self) -> i64 {
        self.concepts.status().applied_seq.min(self.questions.status().applied_seq)
    }

    /// The progress records of the threads of both.
    pub fn progress(&self) -> Vec<Progress> {
        [self.concepts.progress(), self.questions.progress()].concat()
    }

    /// Rebuilds both from the source.
    ///
    /// # Errors
    /// As [`Index::rebuild`]; the second is then not rebuilt.
    pub async fn rebuild(&self, reason: RebuildReason) -> Result<(), IndexError> {
        self.concepts.rebuild(reason).await?;
        self.questions.rebuild(reason).await
    }

    /// Ends the builds of both; see [`Index::close`].
    ///
    /// # Errors
    /// The first error of the last builds. Both are closed nevertheless.
    pub async fn close(&self, flush: bool) -> Result<(), IndexError> {
        let (concepts, questions) =
            futures_util::future::join(self.concepts.close(flush), self.questions.close(flush)).await;
        concepts.and(questions)
    }
}
