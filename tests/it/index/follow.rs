//! What is committed is found: at once, during a build, after it, and after a restart.

use super::truth::{
    self, DIMS, Truth, assert_equal, nearest, open, options, tell, tell_without_room, until, vector,
};
use lnsp_ingest::index::{Effort, Index, RebuildReason, SearchMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[tokio::test]
async fn a_row_is_found_when_it_is_absorbed() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let index = open(home.path(), &truth);
    let commit = truth.insert(3);
    let seq = commit.upto;
    tell(&index, commit).await;
    let found = index.search_async(vector(2, 0, DIMS), Arc::default(), 2, Effort::Normal).await.unwrap();
    assert_eq!((found.hits[0].item, found.seq, found.mode), (2, seq, SearchMode::Exact));
    assert_eq!(found.hits.len(), 2);
    let status = index.status();
    assert_eq!((status.items, status.delta_len, status.applied_seq, status.built_seq), (0, 3, seq, 0));
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn a_build_moves_the_delta_and_a_restart_keeps_it() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(40);
    let index = open(home.path(), &truth);
    assert_eq!(index.status().last_rebuild, Some(RebuildReason::Missing));
    for _ in 0..3 {
        tell(&index, truth.insert(60)).await;
        tell(&index, truth.hole(5)).await;
    }
    index.flush().await.unwrap();
    let status = index.status();
    assert_eq!((status.items, status.delta_len), (220, 0));
    assert_eq!((status.built_seq, status.applied_seq), (truth.clock(), truth.clock()));
    assert_equal(&index, &truth);

    tell(&index, truth.insert(7)).await;
    drop(index);
    let index = open(home.path(), &truth);
    assert_eq!(index.status().last_rebuild, None);
    assert_eq!((index.status().items, index.status().built_seq), (227, truth.clock()));
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn closing_with_a_flush_leaves_nothing_to_catch_up() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let index = open(home.path(), &truth);
    tell(&index, truth.insert(30)).await;
    index.close(true).await.unwrap();
    assert!(index.flush().await.is_err());
    assert!(index.wait_for(truth.clock() + 1).await.is_err());
    assert_equal(&index, &truth);
    drop(index);
    let index = open(home.path(), &truth);
    assert_eq!((index.status().builds, index.status().items), (0, 30));
}

#[tokio::test]
async fn a_deletion_hides_what_is_built_and_what_is_not() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(300);
    let mut ann = options(home.path());
    ann.trees_from = 1;
    let index = Index::open(ann, truth.clone()).unwrap();
    tell(&index, truth.insert(10)).await;
    tell(&index, truth.delete(&[7, 305])).await;
    for (gone, mode) in [(7, SearchMode::Trees), (305, SearchMode::Trees)] {
        let found = nearest(&index, &vector(gone, 0, DIMS), 310, Effort::Normal);
        assert_eq!(found.mode, mode);
        assert!(found.hits.iter().all(|hit| hit.item != gone));
    }
    assert_equal(&index, &truth);
    index.flush().await.unwrap();
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn deletions_that_are_not_built_do_not_shorten_the_answer() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    // Two hundred rows on one side of the sphere, two hundred on the other.
    let side = |sign: f32| {
        (0..200u32).map(move |n| {
            let mut raw = vector(n, 1, DIMS).to_vec();
            raw[0] += 3.0 * sign;
            truth::unit(&raw)
        })
    };
    truth.insert_vectors(side(1.0).chain(side(-1.0)).collect());
    let mut ann = options(home.path());
    ann.trees_from = 1;
    let index = Index::open(ann, truth.clone()).unwrap();
    tell(&index, truth.delete(&(1..=200).collect::<Vec<_>>())).await;
    let mut query = [0.0; DIMS];
    query[0] = 1.0;
    let found = nearest(&index, &query, 10, Effort::Normal);
    assert_eq!(found.hits.len(), 10);
    assert!(found.hits.iter().all(|hit| hit.item > 200));
}

#[tokio::test]
async fn the_newer_version_of_a_row_wins() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(50);
    let index = open(home.path(), &truth);
    let old = truth.vector_of(9);
    tell(&index, truth.replace(&[9])).await;
    tell(&index, truth.replace(&[9, 10])).await;
    for round in ["in memory", "built"] {
        let found = nearest(&index, &old, 50, Effort::Normal);
        assert_eq!(found.hits.iter().filter(|hit| hit.item == 9).count(), 1, "{round}");
        assert_ne!(found.hits[0].item, 9, "{round}");
        assert_equal(&index, &truth);
        index.flush().await.unwrap();
    }
    // Scores of the delta and of the built part are on one scale.
    let built = nearest(&index, &old, 50, Effort::Normal);
    tell(&index, truth.replace(&[11])).await;
    let mixed = nearest(&index, &truth.vector_of(11), 1, Effort::Normal);
    assert!((mixed.hits[0].score - 1.0).abs() < 1e-5);
    assert!(built.hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
}

/// One thread absorbs and builds, another searches without pause for everything absorbed so far.
#[test]
fn no_search_misses_an_absorbed_row_while_builds_move_it() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let index = open(home.path(), &truth);
    let absorbed = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searcher = scope.spawn(|| {
            let mut searches = 0u32;
            while !done.load(Ordering::Acquire) {
                let known = absorbed.load(Ordering::Acquire);
                if known == 0 {
                    continue;
                }
                // The latest row is the one that moves; the others are asked for in turn.
                for item in [known, 1 + searches % known] {
                    let found = nearest(&index, &vector(item, 0, DIMS), 1, Effort::Exact);
                    assert_eq!(found.hits[0].item, item, "of {known} absorbed");
                    assert!(found.seq >= i64::from(known));
                }
                searches += 1;
            }
            searches
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for _ in 0..50 {
                let flush = async { index.flush().await.unwrap() };
                let more = async {
                    for _ in 0..4 {
                        let commit = truth.insert(3);
                        let last = commit.rows[2].item;
                        tell(&index, commit).await;
                        absorbed.store(last, Ordering::Release);
                        tokio::task::yield_now().await;
                    }
                };
                tokio::join!(more, flush);
            }
        });
        done.store(true, Ordering::Release);
        assert!(searcher.join().unwrap() > 0);
    });
    assert!(index.status().builds >= 50);
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn a_commit_that_does_not_touch_waits_for_the_source() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(5);
    let index = open(home.path(), &truth);
    let start = truth.clock();
    // Another process commits, and we hear only of what comes after.
    truth.insert(2);
    let ours = truth.insert(1);
    tell(&index, ours).await;
    assert_eq!(index.status().applied_seq, start);
    assert_eq!(nearest(&index, &vector(8, 0, DIMS), 1, Effort::Normal).hits[0].item, 8);
    index.flush().await.unwrap();
    assert_eq!(index.status().applied_seq, truth.clock());
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn commits_told_out_of_order_join() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let index = open(home.path(), &truth);
    let commits: Vec<_> = (0..4).map(|_| truth.insert(2)).collect();
    for n in [2, 1, 3] {
        tell(&index, commits[n].clone()).await;
        assert_eq!(index.status().applied_seq, 0);
    }
    tell(&index, commits[0].clone()).await;
    assert_eq!(index.status().applied_seq, 8);
    // Told again, nothing changes.
    tell(&index, commits[0].clone()).await;
    assert_eq!(index.status().delta_len, 8);
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn waiting_for_a_number_makes_the_index_look() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(5);
    let index = open(home.path(), &truth);
    truth.insert(3);
    assert_eq!(index.wait_for(truth.clock()).await.unwrap(), truth.clock());
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn a_rebuild_goes_on_behind_the_searches() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(500);
    let index = open(home.path(), &truth);
    tell(&index, truth.insert(5)).await;
    index.rebuild(RebuildReason::Manual).await.unwrap();
    assert_eq!(index.status().last_rebuild, Some(RebuildReason::Manual));
    assert_eq!((index.status().items, index.status().delta_len), (505, 0));
    let volumes = std::fs::read_dir(home.path()).unwrap();
    let volumes = volumes.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(volumes, 1);
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn builds_come_by_number_and_by_quiet() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::new();
    let mut by_number = options(home.path());
    by_number.policy.at_least = 10;
    by_number.policy.at_most = 10;
    let index = Index::open(by_number, truth.clone()).unwrap();
    tell(&index, truth.insert(9)).await;
    assert_eq!(index.status().builds, 0);
    tell(&index, truth.insert(1)).await;
    until("a build by number", || index.status().items == 10);
    drop(index);

    let mut by_quiet = options(home.path());
    by_quiet.policy.idle = Duration::from_millis(1);
    let index = Index::open(by_quiet, truth.clone()).unwrap();
    tell(&index, truth.insert(1)).await;
    until("a build by quiet", || index.status().items == 11);
    // A gap is closed by quiet as well.
    truth.insert(1);
    tell_without_room(&index, truth.insert(1));
    until("a closed gap", || index.status().built_seq == truth.clock());
    assert_equal(&index, &truth);
}

#[tokio::test]
async fn commits_that_hold_nothing_for_the_index_do_not_leave_its_watermark_behind() {
    let (home, truth) = (tempfile::tempdir().unwrap(), Truth::new());
    let mut often = options(home.path());
    often.policy.increment = 100;
    let index = Index::open(often, truth.clone()).unwrap();
    for _ in 0..99 {
        tell(&index, truth.hole(1)).await;
    }
    assert_eq!((index.status().applied_seq, index.status().built_seq), (99, 0));
    tell(&index, truth.hole(1)).await;
    until("it is built", || index.status().built_seq == 100);
    assert_eq!((index.status().builds, index.status().items), (1, 0));
    index.close(false).await.unwrap();
}
