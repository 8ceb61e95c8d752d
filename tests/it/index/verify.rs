//! A comparison with the source finds each difference, and mends that alone.

use super::truth::{Truth, assert_equal, open, tell};
use lnsp_ingest::index::{Index, VerifyReport};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const ROWS: usize = 2_100;

/// Changes the bytes of a vector in the file of a closed index.
fn flip_a_bit(home: &Path, vector: &[f32]) {
    let data = home.join("index-1/data.mdb");
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let content = std::fs::read(&data).unwrap();
    let places: Vec<usize> = content
        .windows(bytes.len())
        .enumerate()
        .filter(|(_, found)| *found == bytes)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    let file = OpenOptions::new().write(true).open(&data).unwrap();
    for at in places {
        // The lowest bit of an exponent: a number of the same sign, half or twice as large.
        let last = at as u64 + 2;
        file.write_all_at(&[content[at + 2] ^ 0x80], last).unwrap();
    }
}

async fn verified(index: &Index, repair: bool) -> VerifyReport {
    index.verify(repair).await.unwrap()
}

fn report(rows: usize) -> VerifyReport {
    VerifyReport { rows: rows as u64, ..VerifyReport::default() }
}

#[tokio::test]
async fn each_difference_is_found_and_mended() {
    let home = tempfile::tempdir().unwrap();
    let truth = Truth::with(ROWS);
    let index = open(home.path(), &truth);
    tell(&index, truth.insert(10)).await;
    assert_eq!(verified(&index, false).await, report(ROWS + 10), "equal");
    let built = index.status().built_seq;

    // Each is a change that the index never hears of: the clock stays.
    type Harm = fn(&Truth);
    let harms: [(&str, Harm, VerifyReport); 3] = [
        ("missing", |truth| truth.forge(&[], &[3_000]), VerifyReport { missing: 1, ..report(ROWS + 11) }),
        ("extra", |truth| truth.forge(&[1_500], &[]), VerifyReport { extra: 1, ..report(ROWS + 10) }),
        ("other bytes", |truth| truth.forge(&[], &[77]), VerifyReport { damaged: 1, ..report(ROWS + 10) }),
    ];
    for (what, harm, expected) in harms {
        harm(&truth);
        assert_eq!(verified(&index, false).await, expected, "{what}");
        assert_eq!(verified(&index, false).await, expected, "{what}: looking mends nothing");
        assert_eq!(verified(&index, true).await, expected, "{what}");
        assert_eq!(verified(&index, false).await.differences(), 0, "{what}");
        assert_equal(&index, &truth);
    }
    assert_eq!(index.status().built_seq, built);
    index.close(true).await.unwrap();
    drop(index);

    flip_a_bit(home.path(), &truth.vector_of(1_234));
    let index = open(home.path(), &truth);
    assert_eq!(index.status().last_rebuild, None);
    assert_eq!(verified(&index, true).await, VerifyReport { damaged: 1, ..report(ROWS + 10) });
    assert_equal(&index, &truth);
    drop(index);
    assert_equal(&open(home.path(), &truth), &truth);
}

#[tokio::test]
async fn what_changes_meanwhile_is_no_difference() {
    let home = tempfile::tempdir().unwrap();
    let truth: Arc<Truth> = Truth::with(ROWS);
    let index = open(home.path(), &truth);
    for round in 0..5u32 {
        truth.insert(3);
        truth.replace(&[round + 1, round + 100]);
        truth.delete(&[round + 200]);
        assert_eq!(verified(&index, false).await.differences(), 0, "{round}");
    }
    assert_equal(&index, &truth);
}
