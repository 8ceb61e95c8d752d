//! Slots of the delta, failing builds, unusable vectors, and two processes on one folder.

use super::truth::{
    DIMS, Mood, Truth, assert_equal, nearest, open, options, tell, tell_without_room, until, vector,
};
use lnsp_ingest::filter::Filter;
use lnsp_ingest::index::{Effort, Index, IndexError, IndexOptions, NearestQuery, RebuildReason};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

#[tokio::test]
async fn room_is_waited_for_and_made_by_a_build() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let mut narrow = options(home.path());
    narrow.policy.slots = 8;
    let index = Index::open(narrow, truth.clone()).unwrap();
    let held = index.reserve(8).await;
    assert_eq!(index.status().free_slots, 0);
    {
        let mut waiting = pin!(index.reserve(1));
        assert!(is_pending(waiting.as_mut()));
        // Slots that are not needed are free again with the commit, the others with the build.
        index.apply_committed(held, truth.insert(7)).unwrap();
        assert_eq!(waiting.await.len(), 1);
    }
    tell(&index, truth.insert(1)).await;
    // Waiting for more changes than there are starts a build.
    assert_eq!(index.reserve(5).await.len(), 5);
    until("a build", || index.status().items == 8);
    assert_eq!(index.status().free_slots, 8);
    // A request for more slots than there are is clipped to all of them.
    assert_eq!(index.reserve(100).await.len(), 8);
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn without_room_a_full_delta_leaves_the_commit_to_the_source() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let mut narrow = options(home.path());
    narrow.policy.slots = 4;
    let index = Index::open(narrow, truth.clone()).unwrap();
    tell_without_room(&index, truth.insert(4));
    tell_without_room(&index, truth.insert(2));
    let status = index.status();
    assert_eq!((status.delta_len, status.applied_seq), (4, 4));
    index.flush().await.unwrap();
    assert_eq!(index.status().applied_seq, 6);
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn when_builds_fail_for_too_long_no_commit_waits_and_the_index_recovers() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(10);
    let mut without_grace = options(home.path());
    without_grace.policy.slots = 2;
    without_grace.policy.grace = Duration::ZERO;
    without_grace.policy.retry = Duration::from_millis(1);
    let index = Index::open(without_grace, truth.clone()).unwrap();
    truth.mood(Mood::Fails);
    truth.insert(1);
    index.poll_source();
    until("a failed build", || index.status().degraded.is_some());
    assert!(index.status().degraded.unwrap().contains("scripted failure"));
    let held = index.reserve(2).await;
    assert_eq!((held.len(), index.reserve(2).await.len()), (2, 0));
    assert!(matches!(index.flush().await, Ok(()) | Err(IndexError::BuildFailed(_))));
    truth.mood(Mood::Answers);
    until("healing", || index.status().degraded.is_none());
    index.wait_for(truth.clock()).await.unwrap();
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn the_grace_is_waited_out() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(10);
    let mut with_grace = options(home.path());
    with_grace.policy.slots = 2;
    with_grace.policy.retry = Duration::from_millis(1);
    with_grace.policy.grace = Duration::from_secs(3600);
    let index = Index::open(with_grace, truth.clone()).unwrap();
    truth.mood(Mood::Fails);
    index.poll_source();
    until("three failed builds", || index.status().failed_builds >= 3);
    assert_eq!(index.status().degraded, None);
    let _held = index.reserve(2).await;
    assert!(is_pending(pin!(index.reserve(1)).as_mut()));
    truth.mood(Mood::Answers);
    drop(index);
}

#[tokio::test]
async fn a_panic_fails_one_build_and_a_lasting_one_makes_a_rebuild() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(10);
    let mut options = options(home.path());
    options.policy.retry = Duration::from_millis(1);
    let index = Index::open(options, truth.clone()).unwrap();
    truth.mood(Mood::Panics);
    truth.insert(1);
    index.poll_source();
    until("two failed builds", || index.status().failed_builds >= 2);
    assert!(nearest(&index, &vector(3, 0, DIMS), 1, Effort::Normal).hits[0].item == 3);
    truth.mood(Mood::Answers);
    index.wait_for(truth.clock()).await.unwrap();
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn a_vector_that_is_none_is_left_out_and_counted() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let index = open(home.path(), &truth);
    let bad: Vec<Arc<[f32]>> = vec![vec![0.0; DIMS].into(), vec![f32::NAN; DIMS].into(), vec![1.0; 3].into()];
    tell(&index, truth.insert_vectors(bad)).await;
    tell(&index, truth.insert(1)).await;
    assert_eq!(index.status().refused, 3);
    for _ in 0..2 {
        assert_eq!(index.items().iter().collect::<Vec<_>>(), [4]);
        index.flush().await.unwrap();
    }
    drop(index);
    std::fs::remove_dir_all(home.path().join("index-1")).unwrap();
    let index = open(home.path(), &truth);
    assert_eq!(index.status().last_rebuild, Some(RebuildReason::Missing));
    assert_eq!(index.items().iter().collect::<Vec<_>>(), [4]);
}

#[test]
fn queries_that_make_no_sense_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let index = open(home.path(), &Truth::with(3));
    let ask = |vector: &[f32], k| {
        index.search(&NearestQuery { vector, filter: &Filter::default(), k, effort: Effort::Normal })
    };
    assert!(matches!(ask(&[1.0], 1), Err(IndexError::WrongDims { expected: DIMS, received: 1 })));
    assert!(matches!(ask(&[0.0; DIMS], 1), Err(IndexError::UnusableQuery)));
    assert!(matches!(ask(&[f32::NAN; DIMS], 1), Err(IndexError::UnusableQuery)));
    assert!(ask(&[1.0; DIMS], 0).unwrap().hits.is_empty());
    assert_eq!(ask(&[1.0; DIMS], 100).unwrap().hits.len(), 3);
    // The length of a query does not matter.
    let long: Vec<f32> = vector(2, 0, DIMS).iter().map(|x| x * 40.0).collect();
    assert!((ask(&long, 1).unwrap().hits[0].score - 1.0).abs() < 1e-5);
}

#[test]
fn an_index_folder_has_one_user() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(3);
    let index = open(home.path(), &truth);
    let second = Index::open(options(home.path()), truth.clone());
    assert!(matches!(second, Err(IndexError::Locked(_))));
    drop(index);
    assert_equal(&open(home.path(), &truth), &truth);
}

#[test]
fn a_source_that_does_not_answer_is_an_error_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(3);
    truth.mood(Mood::Fails);
    assert!(matches!(Index::open(options(home.path()), truth.clone()), Err(IndexError::Source(_))));
    truth.mood(Mood::Panics);
    assert!(matches!(Index::open(options(home.path()), truth.clone()), Err(IndexError::Panicked(_))));
    truth.mood(Mood::Answers);
    assert_equal(&open(home.path(), &truth), &truth);
}

#[tokio::test]
async fn a_full_map_is_named() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let mut small = options(home.path());
    small.map_size = 1 << 20;
    let index = Index::open(small, truth.clone()).unwrap();
    tell(&index, truth.insert(12_000)).await;
    let error = index.flush().await.unwrap_err().to_string();
    assert!(error.contains("raise the index map size"), "{error}");
    // What is committed is found all the same.
    assert_eq!(nearest(&index, &vector(77, 0, DIMS), 1, Effort::Normal).hits[0].item, 77);
    tell_without_room(&index, truth.hole(1));
    drop(index);
    let roomy = IndexOptions { trees: 1, ..options(home.path()) };
    assert_equal(&Index::open(roomy, truth.clone()).unwrap(), &truth);
}
