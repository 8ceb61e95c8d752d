//! An index belongs to one model, one store, and one history of that store.

use super::truth::{DIMS, Truth, assert_equal, identity, nearest, open, options, tell, until, vector};
use lnsp_ingest::index::{
    ChangeSource, Commit, Effort, Index, IndexIdentity, IndexOptions, OtherHistory, RebuildReason,
};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

fn reopen(dir: &Path, truth: &Arc<Truth>) -> Option<RebuildReason> {
    let index = open(dir, truth);
    assert_equal(&index, truth);
    index.status().last_rebuild
}

#[test]
fn another_model_or_store_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(50);
    reopen(home.path(), &truth);
    let others = [
        (IndexIdentity { fingerprint: "model-b".into(), ..identity() }, RebuildReason::ModelChanged),
        (IndexIdentity { store_id: Uuid::from_u128(8), ..identity() }, RebuildReason::StoreChanged),
    ];
    for (identity, reason) in others {
        let opened = Index::open(IndexOptions { identity, ..options(home.path()) }, truth.clone()).unwrap();
        assert_eq!(opened.status().last_rebuild, Some(reason));
        assert_equal(&opened, &truth);
        drop(opened);
        reopen(home.path(), &truth);
    }
}

#[test]
fn another_number_of_dimensions_is_another_model() {
    let home = tempfile::tempdir().unwrap();
    reopen(home.path(), &Truth::with(50));
    let wide =
        IndexOptions { identity: IndexIdentity { dims: DIMS + 1, ..identity() }, ..options(home.path()) };
    let index = Index::open(wide, Truth::new()).unwrap();
    assert_eq!(index.status().last_rebuild, Some(RebuildReason::ModelChanged));
    assert!(index.is_empty());
}

#[test]
fn a_store_that_was_set_back_is_followed_from_the_start() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(50);
    let backup = truth.rows();
    truth.insert(20);
    reopen(home.path(), &truth);

    // Its clock is behind ours.
    let restored = Truth::from_rows(backup);
    assert_eq!(reopen(home.path(), &restored), Some(RebuildReason::StoreRestored));

    // Its clock has run past ours, on another way.
    let backup = restored.rows();
    restored.insert(10);
    assert_eq!(reopen(home.path(), &restored), None);
    let restored = Truth::from_rows(backup.clone());
    restored.delete(&[1, 2]);
    restored.insert(30);
    assert_eq!(reopen(home.path(), &restored), Some(RebuildReason::StoreRestored));

    // The same item at the same number, with other content.
    let witness = *restored.items().last().unwrap();
    assert_eq!(reopen(home.path(), &restored), None);
    let forged = Truth::from_rows(backup);
    forged.delete(&[1, 2]);
    forged.insert(29);
    let other = super::truth::vector(witness, 99, DIMS);
    forged.insert_vectors(vec![other]);
    assert_eq!(reopen(home.path(), &forged), Some(RebuildReason::StoreRestored));
}

#[test]
fn a_witness_that_was_changed_or_deleted_since_is_no_other_history() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(50);
    reopen(home.path(), &truth);
    truth.replace(&[50]);
    assert_eq!(reopen(home.path(), &truth), None);
    // Far behind its number, beyond the first page of changes.
    truth.insert(300);
    assert_eq!(reopen(home.path(), &truth), None);
    truth.replace(&(1..=200).collect::<Vec<_>>());
    truth.delete(&[350]);
    assert_eq!(reopen(home.path(), &truth), None);
    // The witness goes in an increment that brings nothing new.
    truth.delete(&[200]);
    assert_eq!(reopen(home.path(), &truth), None);
    truth.insert(1);
    assert_eq!(reopen(home.path(), &truth), None);
    truth.delete(&truth.items());
    assert_eq!(reopen(home.path(), &truth), None);
}

#[tokio::test]
async fn whoever_is_far_behind_builds_once() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(50);
    reopen(home.path(), &truth);
    truth.insert(500);
    let mut small = options(home.path());
    small.policy.increment = 100;
    let index = Index::open(small.clone(), truth.clone()).unwrap();
    assert_eq!(index.status().last_rebuild, Some(RebuildReason::FarBehind));
    assert_equal(&index, &truth);
    drop(index);

    // A little behind, it catches up in steps.
    truth.insert(350);
    let index = Index::open(small, truth.clone()).unwrap();
    assert_eq!((index.status().last_rebuild, index.status().builds), (None, 4));
    assert_equal(&index, &truth);
    tell(&index, truth.insert(5)).await;
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn a_history_that_lost_commits_is_followed_while_the_index_is_open() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(60);
    let index = open(home.path(), &truth);
    tell(&index, truth.insert(10)).await;
    index.flush().await.unwrap();
    let earlier = truth.rows();
    // Lost: some that are built, some that are not.
    tell(&index, truth.replace(&[5, 6])).await;
    tell(&index, truth.delete(&[7])).await;
    tell(&index, truth.insert(50)).await;
    index.flush().await.unwrap();
    tell(&index, truth.insert(20)).await;
    let applied = index.status().applied_seq;

    // Other rows take the numbers of those that were lost, and some are committed before that is seen.
    truth.fail_over_to(earlier);
    tell(&index, truth.insert(9)).await;
    tell(&index, truth.delete(&[8])).await;
    tell(&index, truth.replace(&[9])).await;
    index.observe(&ChangeSource::clock(&*truth).unwrap(), applied);
    tell(&index, truth.insert(3)).await;
    let clock = ChangeSource::clock(&*truth).unwrap();
    until("the index follows", || index.status().applied_seq == clock.seq && index.status().items >= 71);
    index.flush().await.unwrap();
    assert_equal(&index, &truth);
    // From here on it is the only history.
    tell(&index, truth.insert(5)).await;
    index.observe(&ChangeSource::clock(&*truth).unwrap(), index.status().applied_seq);
    index.flush().await.unwrap();
    assert_equal(&index, &truth);
    drop(index);
    assert_eq!(reopen(home.path(), &truth), None);
}

#[tokio::test]
async fn a_commit_of_another_history_is_searchable_when_the_index_follows_it() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(60);
    let index = open(home.path(), &truth);
    let earlier = truth.rows();
    tell(&index, truth.insert(30)).await;
    index.flush().await.unwrap();
    truth.fail_over_to(earlier);
    // Nobody has told it so far. Its number and its item are those of a lost row.
    let commit = truth.insert_vectors(vec![vector(1000, 0, DIMS)]);
    let slots = index.reserve(1).await;
    let OtherHistory(clock) = index.apply_committed(slots, commit).unwrap_err();
    assert_eq!(clock, ChangeSource::clock(&*truth).unwrap());
    index.wait_for_clock(&clock).await.unwrap();
    let found = nearest(&index, &vector(1000, 0, DIMS), 1, Effort::Normal);
    assert_eq!((found.hits[0].item, found.seq), (61, 61));
    assert_equal(&index, &truth);
    // The next one is taken at once, and what is left of the other history is not.
    index.apply_committed(index.reserve(1).await, truth.insert(1)).unwrap();
    assert_equal(&index, &truth);
    let late = Commit { history: "gone".into(), after: 62, upto: 63, ..Commit::default() };
    index.apply_committed(index.reserve(1).await, late).unwrap_err();
    until("it has looked again", || index.observe(&ChangeSource::clock(&*truth).unwrap(), 0));
    assert_equal(&index, &truth);
}

#[test]
fn a_history_that_changed_while_the_index_was_closed_is_compared() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(60);
    let earlier = truth.rows();
    truth.insert(30);
    reopen(home.path(), &truth);
    truth.fail_over_to(earlier);
    truth.insert(45);
    reopen(home.path(), &truth);
    assert_eq!(reopen(home.path(), &truth), None);
}

#[tokio::test]
async fn a_history_that_shares_little_is_followed_by_a_rebuild_while_the_index_is_open() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(10);
    let earlier = truth.rows();
    truth.insert(12_000);
    let index = open(home.path(), &truth);
    let applied = index.status().applied_seq;
    truth.fail_over_to(earlier);
    truth.delete(&[1]);
    truth.insert(9_500);
    let clock = ChangeSource::clock(&*truth).unwrap();
    assert!(!index.observe(&clock, applied));
    until("the index follows", || index.status().last_rebuild == Some(RebuildReason::StoreRestored));
    index.wait_for(clock.seq).await.unwrap();
    assert_equal(&index, &truth);
    assert!(index.observe(&clock, index.status().applied_seq));
}
