//! An index belongs to one model, one store, and one history of that store.

use super::truth::{DIMS, Truth, assert_equal, identity, open, options, tell};
use lnsp_ingest::index::{Index, IndexIdentity, IndexOptions, RebuildReason};
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
    assert!(index.is_empty().unwrap());
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
