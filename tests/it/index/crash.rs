//! A crash at any moment leaves a volume that equals the store at its watermark.

use super::truth::{Truth, assert_equal, copy, open, tell};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const DIR: &str = "LNSP_TEST_CRASH_DIR";
const FROM: &str = "LNSP_TEST_CRASH_FROM";
/// A child never gets further than this beyond where it began, so that the parent can run ahead of it.
const STEPS: u64 = 400;
const ROUNDS: u64 = 6;

/// The store after `steps` steps of one and the same story, told to the index where there is one.
async fn live(
    truth: &Truth,
    steps: std::ops::Range<u64>,
    mut hear: impl AsyncFnMut(u64, lnsp_ingest::index::Commit),
) {
    for step in steps {
        let items = truth.items();
        let commit = match (step % 5, items.len()) {
            (3, 1..) => truth.delete(&[items[(step * 7919) as usize % items.len()]]),
            (4, 1..) => truth.replace(&[items[(step * 104_729) as usize % items.len()]]),
            _ => truth.insert(2),
        };
        hear(step, commit).await;
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn store_after(steps: u64) -> Arc<Truth> {
    let truth = Truth::new();
    block_on(live(&truth, 0..steps, async |_, _| {}));
    truth
}

/// Not a test by itself: the process that is killed.
#[test]
fn the_child_that_is_killed() {
    let (Some(dir), Some(from)) = (std::env::var_os(DIR), std::env::var(FROM).ok()) else { return };
    let from: u64 = from.parse().unwrap();
    let truth = store_after(from);
    let index = open(Path::new(&dir), &truth);
    block_on(live(&truth, from..from + STEPS, async |step, commit| {
        tell(&index, commit).await;
        if step % 3 == 0 {
            index.flush().await.unwrap();
        }
        println!("\nstep {step}");
    }));
}

#[test]
fn killed_at_any_moment_it_equals_the_store_at_its_watermark() {
    let home = tempfile::tempdir().unwrap();
    let mut from = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["the_child_that_is_killed", "--nocapture"])
            .env(DIR, home.path())
            .env(FROM, from.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = from + 5 + round * 17;
        let seen = lines.map_while(Result::ok).any(|line| line == format!("step {wanted}"));
        assert!(seen, "the child ended by itself");
        // Not always at the same place in a build.
        (0..round * 100_000).for_each(|n| {
            std::hint::black_box(n);
        });
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());

        from += STEPS;
        let truth = store_after(from);
        let index = open(home.path(), &truth);
        let rebuilt = index.status().last_rebuild;
        assert_eq!(rebuilt, None, "what was committed before the kill is still there");
        assert_equal(&index, &truth);
    }
}

/// The files as a power cut would leave them, between two builds.
#[test]
fn the_files_of_a_living_index_are_good_at_their_watermark() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(30);
    let index = open(&home.path().join("living"), &truth);
    block_on(async {
        tell(&index, truth.insert(5)).await;
        index.flush().await.unwrap();
        let then = Truth::from_rows(truth.rows());
        tell(&index, truth.insert(5)).await;
        copy(&home.path().join("living"), &home.path().join("copied"));

        let copied = open(&home.path().join("copied"), &then);
        let status = copied.status();
        assert_eq!((status.last_rebuild, status.builds, status.built_seq), (None, 0, then.clock()));
        assert_equal(&copied, &then);
        drop(copied);
        let copied = open(&home.path().join("copied"), &truth);
        assert_eq!((copied.status().last_rebuild, copied.status().builds), (None, 1));
        assert_equal(&copied, &truth);
    });
    assert_equal(&index, &truth);
}
