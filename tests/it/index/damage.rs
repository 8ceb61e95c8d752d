//! Damaged files are no error: the index is made again from the committed rows.

use super::truth::{Rows, Truth, assert_equal, copy, open, tell};
use lnsp_ingest::index::RebuildReason;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An index of 600 rows with a few in a second build, closed. Made once and copied.
fn made() -> (tempfile::TempDir, Arc<Truth>, PathBuf) {
    static MADE: OnceLock<(tempfile::TempDir, Rows)> = OnceLock::new();
    let (model, rows) = MADE.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let truth = Truth::with(600);
        let index = open(home.path(), &truth);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tell(&index, truth.insert(5)).await;
            tell(&index, truth.delete(&[3, 4])).await;
            index.close(true).await.unwrap();
        });
        (home, truth.rows())
    });
    let home = tempfile::tempdir().unwrap();
    copy(model.path(), home.path());
    let data = home.path().join("index-1/data.mdb");
    assert!(data.is_file());
    (home, Truth::from_rows(rows.clone()), data)
}

fn check(home: &Path, truth: &Arc<Truth>, reason: Option<RebuildReason>, what: &str) {
    let index = open(home, truth);
    assert_eq!(index.status().last_rebuild, reason, "{what}");
    assert_equal(&index, truth);
}

#[test]
fn what_is_not_damaged_is_kept() {
    let (home, truth, _) = made();
    check(home.path(), &truth, None, "untouched");
}

#[test]
fn a_missing_piece_is_rebuilt() {
    type Harm = fn(&Path, &Path);
    let harms: [(&str, RebuildReason, Harm); 6] = [
        ("no folder", RebuildReason::Missing, |home, _| fs::remove_dir_all(home).unwrap()),
        ("no CURRENT", RebuildReason::Missing, |home, _| fs::remove_file(home.join("CURRENT")).unwrap()),
        ("CURRENT leads out", RebuildReason::Missing, |home, _| {
            fs::write(home.join("CURRENT"), "../other").unwrap();
        }),
        ("no volume", RebuildReason::Missing, |_, data| fs::remove_dir_all(data.parent().unwrap()).unwrap()),
        ("no file", RebuildReason::Corrupt, |_, data| fs::remove_file(data).unwrap()),
        ("no lock file", RebuildReason::Missing, |home, data| {
            fs::remove_file(data.with_file_name("lock.mdb")).unwrap();
            fs::remove_file(home.join("CURRENT")).unwrap();
        }),
    ];
    for (what, reason, harm) in harms {
        let (home, truth, data) = made();
        harm(home.path(), &data);
        check(home.path(), &truth, Some(reason), what);
        check(home.path(), &truth, None, what);
    }
}

#[test]
fn a_file_that_was_cut_off_is_rebuilt() {
    for part in [0, 1, 100, 4_096, 5_000, 8_192, 100_000] {
        let (home, truth, data) = made();
        let file = OpenOptions::new().write(true).open(&data).unwrap();
        file.set_len(part).unwrap();
        check(home.path(), &truth, Some(RebuildReason::Corrupt), &format!("{part} bytes left"));
    }
    let (home, truth, data) = made();
    let file = OpenOptions::new().write(true).open(&data).unwrap();
    file.set_len(file.metadata().unwrap().len() - 4_096).unwrap();
    check(home.path(), &truth, Some(RebuildReason::Corrupt), "the last page is gone");
}

#[test]
fn a_header_with_a_flipped_bit_is_rebuilt() {
    // Page header (16 bytes), then magic and version, in both of LMDB's header pages.
    for at in [16, 19, 20, 4_096 + 16, 4_096 + 20] {
        let (home, truth, data) = made();
        let file = OpenOptions::new().read(true).write(true).open(&data).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        check(home.path(), &truth, Some(RebuildReason::Corrupt), &format!("bit at {at}"));
    }
}

#[test]
fn a_file_of_something_else_is_rebuilt() {
    for text in [vec![0u8; 1 << 16], b"not a database".repeat(5_000)] {
        let (home, truth, data) = made();
        fs::write(&data, text).unwrap();
        check(home.path(), &truth, Some(RebuildReason::Corrupt), "something else");
    }
}

/// What a rebuild leaves when the power goes: a volume that `CURRENT` does not name.
#[test]
fn an_unfinished_rebuild_is_cleared_away() {
    let (home, truth, data) = made();
    let unfinished = home.path().join("index-2");
    fs::create_dir(&unfinished).unwrap();
    fs::copy(&data, unfinished.join("data.mdb")).unwrap();
    fs::write(home.path().join("CURRENT.new"), "index-").unwrap();
    check(home.path(), &truth, None, "unfinished");
    assert!(!unfinished.exists());
}
