//! LMDB environments: opening one, and the state of its file. A leaf: imports no other module of the service.

use heed::{Env, EnvOpenOptions, WithoutTls};
use std::path::Path;

/// The largest number of concurrent read transactions; more than the process has threads.
const MAX_READERS: u32 = 1024;

/// Opens the environment in a folder, or creates it there. The caller holds a lock on the folder while it is open, so
/// that no second process opens it, and changes its file only by [`heed`], or by appending to it while no transaction
/// runs.
///
/// # Errors
/// The file is none of LMDB, or the error of the operating system.
// The only unsafe call on LMDB.
#[allow(unsafe_code)]
pub fn open(folder: &Path, map_size: usize, databases: u32) -> heed::Result<Env<WithoutTls>> {
    // Without thread-local storage, because a thread may hold two readers at once and reads come from any thread.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size).max_readers(MAX_READERS).max_dbs(databases);
    // SAFETY: the map is undefined behaviour only if the file is changed by other means than LMDB. The caller's lock
    // keeps other processes away; heed refuses a second environment on one path within the process; the map is never
    // resized; no flag weakens locking or syncing; and the caller only appends, outside of transactions.
    unsafe { options.open(folder) }
}

/// The bytes up to the end of the last page.
pub fn used(env: &Env<WithoutTls>) -> u64 {
    (env.info().last_page_number as u64 + 1) * u64::from(env.unnamed_database_stat().page_size)
}

/// Whether the file is shorter than its page count: reading the missing part would kill the process with SIGBUS.
///
/// # Errors
/// The length of the file cannot be read.
pub fn is_truncated(env: &Env<WithoutTls>) -> heed::Result<bool> {
    Ok(env.real_disk_size()? < used(env))
}
