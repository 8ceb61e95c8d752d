//! The environment of the cache: answers by key, and the order in which they came.
//!
//! New answers are collected in memory and written together, because each transaction waits for the disk. When the
//! answers together are larger than the limit, the oldest ones go. The content is disposable: an environment that cannot
//! be read is emptied.

use super::entry::AnswerKey;
use super::error::CacheError;
use crate::files;
use crate::lmdb;
use crate::threads::lock;
use heed::byteorder::BigEndian;
use heed::types::{Bytes, Str, U64};
use heed::{CommitOrAbort, Database, Env, RwTxn, WithoutTls};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Answers in memory from which they are written.
const PENDING: usize = 256;
/// What an entry takes besides its content: two keys, a checksum, and its share of half-full pages.
const ENTRY_BYTES: u64 = 160;
/// The checksum before each content.
const CHECKSUM: usize = 8;
/// The granularity of the map size: a multiple of every usual page size.
const MAP_GRAIN: u64 = 64 * 1024;
/// The name of the sum of the sizes of all entries.
const BYTES: &str = "bytes";

/// An open environment, and the answers that are not written yet. Reads do not wait for writes.
pub(super) struct Ring {
    env: Env<WithoutTls>,
    /// The checksum and the content by key.
    answers: Database<'static, Bytes, Bytes>,
    /// The keys in the order in which they came.
    order: Database<'static, U64<BigEndian>, Bytes>,
    sums: Database<'static, Str, U64<BigEndian>>,
    unwritten: Mutex<Unwritten>,
    limit: u64,
    _lock: File,
}

/// Answers that are in memory only.
#[derive(Default)]
struct Unwritten {
    pending: HashMap<AnswerKey, Arc<[u8]>>,
    /// Those of the transaction that is under way.
    in_transaction: Arc<HashMap<AnswerKey, Arc<[u8]>>>,
}

impl Ring {
    /// Opens the environment in `folder`, which is made. One that is damaged is made anew.
    pub(super) fn open(folder: &Path, limit: u64) -> Result<Ring, CacheError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| CacheError::Folder { path, error }
        };
        files::own_folder(folder, files::PRIVATE).map_err(io(folder))?;
        let lock_path = folder.join("LOCK");
        let mut options = OpenOptions::new();
        let lock = files::open(&lock_path, options.create(true).truncate(false).write(true), None);
        let lock = lock.map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::Locked(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(&lock_path)(error)),
        }
        let (env, answers, order, sums) = match open_databases(folder, limit) {
            Ok(opened) => opened,
            Err(problem) => {
                tracing::warn!(%problem, "the answer cache cannot be read and is made anew");
                for name in ["data.mdb", "lock.mdb"] {
                    let path = folder.join(name);
                    match std::fs::remove_file(&path) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(io(&path)(error));
                        }
                        _ => {}
                    }
                }
                open_databases(folder, limit)?
            }
        };
        Ok(Ring { env, answers, order, sums, unwritten: Mutex::default(), limit, _lock: lock })
    }

    /// The content of a key.
    pub(super) fn get(&self, key: &AnswerKey) -> Option<Vec<u8>> {
        let unwritten = {
            let unwritten = lock(&self.unwritten);
            unwritten.pending.get(key).or_else(|| unwritten.in_transaction.get(key)).cloned()
        };
        if let Some(content) = unwritten {
            return Some(content.to_vec());
        }
        let found = self.env.read_txn().and_then(|txn| {
            let entry = self.answers.get(&txn, key.bytes())?;
            Ok(entry.and_then(|entry| content_of(key, entry)).map(<[u8]>::to_vec))
        });
        self.usable(found).flatten()
    }

    /// Keeps a content under its key, in place of an older one. One that is too large for the limit is not kept. True when
    /// it is time to write.
    pub(super) fn put(&self, key: AnswerKey, content: Vec<u8>) -> bool {
        if ENTRY_BYTES + content.len() as u64 > self.limit / 2 {
            return false;
        }
        let mut unwritten = lock(&self.unwritten);
        unwritten.pending.insert(key, content.into());
        unwritten.pending.len() >= PENDING
    }

    /// Writes what is in memory. Called from one thread at a time.
    pub(super) fn flush(&self) {
        let entries = {
            let mut unwritten = lock(&self.unwritten);
            unwritten.in_transaction = Arc::new(std::mem::take(&mut unwritten.pending));
            unwritten.in_transaction.clone()
        };
        if entries.is_empty() {
            return;
        }
        let written = self.env.write_txn().and_then(|mut txn| {
            for (key, content) in &*entries {
                self.insert(&mut txn, key, content)?;
            }
            self.evict(&mut txn)?;
            txn.commit()
        });
        lock(&self.unwritten).in_transaction = Arc::default();
        self.usable(written);
    }

    /// The number of answers.
    pub(super) fn len(&self) -> u64 {
        let pending = lock(&self.unwritten).pending.len() as u64;
        let count = self.env.read_txn().and_then(|txn| self.answers.len(&txn));
        self.usable(count).unwrap_or_default() + pending
    }

    fn insert(&self, txn: &mut RwTxn<'_>, key: &AnswerKey, content: &[u8]) -> heed::Result<()> {
        let entry = [&checksum(key, content)[..], content].concat();
        let before = self.answers.get(txn, key.bytes())?.map(<[u8]>::len);
        self.answers.put(txn, key.bytes(), &entry)?;
        let sum = self.sums.get(txn, BYTES)?.unwrap_or_default();
        let sum = match before {
            Some(before) => sum.saturating_sub(before as u64) + entry.len() as u64,
            None => {
                let next = self.order.last(txn)?.map_or(0, |(place, _)| place + 1);
                self.order.put(txn, &next, key.bytes())?;
                sum + entry.len() as u64 + ENTRY_BYTES
            }
        };
        self.sums.put(txn, BYTES, &sum)
    }

    /// Removes the oldest answers while all together are larger than the limit.
    fn evict(&self, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let mut sum = self.sums.get(txn, BYTES)?.unwrap_or_default();
        while sum > self.limit {
            let Some((place, key)) = self.order.first(txn)?.map(|(place, key)| (place, key.to_vec())) else {
                sum = 0;
                break;
            };
            let bytes = self.answers.get(txn, &key)?.map_or(0, <[u8]>::len);
            self.answers.delete(txn, &key)?;
            self.order.delete(txn, &place)?;
            sum = sum.saturating_sub(bytes as u64 + ENTRY_BYTES);
        }
        self.sums.put(txn, BYTES, &sum)
    }

    /// The result of an access. After an error all answers are removed: the map may be full, or the file damaged.
    fn usable<T>(&self, result: heed::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        tracing::warn!(%error, "the answer cache failed and is emptied");
        let emptied = self.env.write_txn().and_then(|mut txn| {
            self.answers.clear(&mut txn)?;
            self.order.clear(&mut txn)?;
            self.sums.clear(&mut txn)?;
            txn.commit()
        });
        if let Err(error) = emptied {
            tracing::warn!(%error, "the answer cache cannot be emptied; delete its folder");
        }
        None
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.flush();
    }
}

type Databases = (
    Env<WithoutTls>,
    Database<'static, Bytes, Bytes>,
    Database<'static, U64<BigEndian>, Bytes>,
    Database<'static, Str, U64<BigEndian>>,
);

fn open_databases(folder: &Path, limit: u64) -> Result<Databases, CacheError> {
    let wrap = |error: heed::Error| CacheError::Environment(error.to_string());
    // Pages that a transaction replaces are free only after it.
    let map_size = (4 * limit / MAP_GRAIN + 256) * MAP_GRAIN;
    // The folder is locked, and nothing else changes the file.
    let map_size = usize::try_from(map_size).unwrap_or(usize::MAX);
    let env = lmdb::open(folder, map_size, 3).map_err(wrap)?;
    if lmdb::is_truncated(&env).map_err(wrap)? {
        return Err(CacheError::Environment("its file is shorter than its page count".to_owned()));
    }
    let txn = env.write_txn().map_err(wrap)?;
    let made = env.create_databases_and_commit(txn, |opener, txn| {
        let answers = opener.create_database(txn, Some("answers"))?;
        let order = opener.create_database(txn, Some("order"))?;
        let sums = opener.create_database(txn, Some("sums"))?;
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((answers, order, sums)))
    });
    let Some((answers, order, sums)) = made.map_err(wrap)?.commit() else {
        return Err(CacheError::Environment("its databases were not made".to_owned()));
    };
    Ok((env, answers, order, sums))
}

/// Binds the content to its key, so that a damaged page is a miss and never another answer.
fn checksum(key: &AnswerKey, content: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.bytes()).update(content);
    let mut sum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

fn content_of<'a>(key: &AnswerKey, entry: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, content) = entry.split_at_checked(CHECKSUM)?;
    (sum == checksum(key, content)).then_some(content)
}

/// Where an environment lies: one folder below the data folder.
pub(super) fn folder_in(data_dir: &Path) -> PathBuf {
    data_dir.join("answers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> AnswerKey {
        AnswerKey::of(&[&n.to_le_bytes()])
    }

    #[test]
    fn what_was_put_is_found_also_after_reopening() {
        let home = tempfile::tempdir().unwrap();
        let ring = Ring::open(home.path(), 1 << 20).unwrap();
        assert_eq!(ring.get(&key(1)), None);
        ring.put(key(1), b"one".to_vec());
        assert_eq!(ring.get(&key(1)).as_deref(), Some(&b"one"[..]), "not yet written");
        ring.flush();
        ring.put(key(1), b"another".to_vec());
        ring.put(key(2), b"two".to_vec());
        drop(ring);
        let ring = Ring::open(home.path(), 1 << 20).unwrap();
        assert_eq!(ring.get(&key(1)).as_deref(), Some(&b"another"[..]));
        assert_eq!((ring.get(&key(2)).as_deref(), ring.len()), (Some(&b"two"[..]), 2));
        assert!(matches!(Ring::open(home.path(), 1 << 20), Err(CacheError::Locked(_))));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let home = tempfile::tempdir().unwrap();
        let size = ENTRY_BYTES + 8 + 8;
        let ring = Ring::open(home.path(), 1000 * size).unwrap();
        for n in 0..5_000_u64 {
            ring.put(key(n), n.to_le_bytes().to_vec());
            // One transaction each fourth, so that the order within one does not matter.
            if n % 4 == 3 {
                ring.flush();
            }
        }
        ring.flush();
        assert_eq!(ring.len(), 1000);
        assert_eq!((ring.get(&key(3_999)), ring.get(&key(4_000)).is_some()), (None, true));
        assert!(ring.get(&key(4_999)).is_some());
        ring.put(key(9), vec![0; 1 << 20]);
        assert_eq!(ring.len(), 1000, "larger than half of the limit");
    }

    #[test]
    fn a_damaged_file_is_made_anew_and_a_damaged_answer_is_a_miss() {
        let home = tempfile::tempdir().unwrap();
        let ring = Ring::open(home.path(), 1 << 20).unwrap();
        ring.put(key(1), b"one".to_vec());
        drop(ring);
        let file = home.path().join("data.mdb");
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(3).position(|window| window == b"one").unwrap();
        bytes[at] = b'O';
        std::fs::write(&file, &bytes).unwrap();
        let ring = Ring::open(home.path(), 1 << 20).unwrap();
        assert_eq!(ring.get(&key(1)), None);
        ring.put(key(2), b"two".to_vec());
        drop(ring);
        for damaged in [b"no environment".to_vec(), bytes[..9_000].to_vec()] {
            std::fs::write(&file, damaged).unwrap();
            let ring = Ring::open(home.path(), 1 << 20).unwrap();
            assert_eq!(ring.len(), 0);
            ring.put(key(3), b"three".to_vec());
            drop(ring);
        }
    }

    #[test]
    fn an_environment_without_room_is_emptied() {
        let home = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(home.path(), 1 << 20).unwrap();
        // A limit that the map cannot hold.
        ring.limit = 1 << 40;
        for n in 0..2_000 {
            ring.put(key(n), vec![7; 20_000]);
        }
        ring.flush();
        assert!(ring.len() < 2_000);
        ring.put(key(5), b"five".to_vec());
        ring.flush();
        assert_eq!(ring.get(&key(5)).as_deref(), Some(&b"five"[..]));
    }
}
