//! One PostgreSQL for all tests of this process, a database of its own for each test, and nothing left behind.
//!
//! The server lives in a static, and statics are never dropped; a test process can also be killed. So the clean-up
//! is done by a small shell process beside it: it reads a pipe whose other end only this process holds, and when
//! the pipe closes, for whatever reason, it stops the server and removes the folder.

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use lnsp_ingest::store::managed::ManagedPostgres;
use lnsp_ingest::store::{Dsn, Store, StoreOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const TEMPLATE: &str = "lnsp_template";

/// A folder for the data of one service, which any account may pass. When it is dropped, or this process is gone, the
/// server in it is stopped and the folder removed.
pub struct DataFolder {
    path: PathBuf,
    watchdog: Child,
}

impl DataFolder {
    pub fn new() -> DataFolder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lnsp-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let watchdog = Command::new("sh")
            .args(["-c", include_str!("clean_up.sh"), "clean_up"])
            .arg(&path)
            .stdin(Stdio::piped())
            // A Ctrl-C on the terminal is not for it.
            .process_group(0)
            .spawn()
            .unwrap();
        DataFolder { path, watchdog }
    }

    /// With a cluster in it already, stopped: a copy takes a tenth of the time of making one.
    pub fn with_cluster() -> DataFolder {
        let folder = DataFolder::new();
        folder.take_cluster();
        folder
    }

    /// Copies a stopped cluster into it.
    pub fn take_cluster(&self) {
        static MOULD: OnceLock<DataFolder> = OnceLock::new();
        let mould = MOULD.get_or_init(|| {
            let folder = DataFolder::new();
            ManagedPostgres::start(folder.path()).unwrap().stop().unwrap();
            folder
        });
        let copied = Command::new("cp").arg("-a").arg(mould.path.join("postgres")).arg(&self.path).status();
        assert!(copied.unwrap().success());
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            pipe.write_all(b"in order").unwrap();
        }
        self.watchdog.wait().unwrap();
    }
}

struct Shared {
    server: ManagedPostgres,
    _folder: DataFolder,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        // A thread of its own, because the caller is inside a runtime.
        let start = || {
            let folder = DataFolder::with_cluster();
            let server = ManagedPostgres::start(folder.path()).unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let mut admin = connect(server.dsn()).await;
                admin.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await.unwrap();
                let store = open(server.dsn().with_database(TEMPLATE)).await;
                store.close().await;
            });
            Shared { server, _folder: folder }
        };
        std::thread::spawn(start).join().unwrap()
    })
}

/// An empty, migrated database on the shared server.
pub async fn database() -> Dsn {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("lnsp_test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let server = shared().server.dsn();
    let mut admin = connect(server).await;
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await.unwrap();
    server.with_database(&name)
}

/// A store on a database.
pub async fn open(dsn: Dsn) -> Store {
    Store::open(StoreOptions { dsn, pool_size: 4 }).await.unwrap()
}

/// A plain connection, to look at a database from outside.
pub async fn connect(dsn: &Dsn) -> AsyncPgConnection {
    AsyncPgConnection::establish(&dsn.to_string()).await.unwrap()
}

/// Where the shared server lives.
pub fn server_folder() -> &'static Path {
    shared().server.folder()
}
