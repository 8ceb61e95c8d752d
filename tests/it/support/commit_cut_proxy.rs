//! A proxy between the service and PostgreSQL that cuts connections around their COMMIT, as told, or all of them.
//!
//! It has threads of its own, because a service that starts blocks the test's.

use crate::support::database::Database;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What happens to one COMMIT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It does not reach the server, which rolls back.
    Before,
    /// The server commits, and its reply does not reach the service.
    After,
    /// Cuts no connection.
    Never,
}

/// The message as it travels: alone, because everything before it was answered.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// In the answer to it, when it was done.
const DONE: &[u8] = b"COMMIT\0";

/// The handle. Everything is cut when it is dropped.
pub struct CommitCutProxy {
    /// The database behind it: the service reaches it through the proxy, the test directly.
    pub database: Database,
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: PathBuf,
    script: Mutex<VecDeque<Cut>>,
    struck: [AtomicUsize; 2],
    tries: AtomicUsize,
    away: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<Both>>,
}

/// Both sides of one connection.
struct Both(TcpStream, UnixStream);

impl Both {
    fn cut(&self) {
        drop(self.0.shutdown(Shutdown::Both));
        drop(self.1.shutdown(Shutdown::Both));
    }

    fn copy(&self) -> Both {
        Both(self.0.try_clone().unwrap(), self.1.try_clone().unwrap())
    }
}

impl CommitCutProxy {
    /// In front of a new database. Cuts nothing yet.
    pub async fn new() -> CommitCutProxy {
        let database = Database::new().await;
        let part = |name: &str| {
            let mut parts = database.dsn().split(' ').filter_map(|part| part.split_once('='));
            parts.find(|(known, _)| *known == name).unwrap().1.to_owned()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dsn = format!("host=127.0.0.1 port={port} user={} dbname={}", part("user"), part("dbname"));
        let shared = Arc::new(Shared {
            server: PathBuf::from(part("host")).join(format!(".s.PGSQL.{}", part("port"))),
            script: Mutex::default(),
            struck: Default::default(),
            tries: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let database = database.reached_at(dsn);
        let accepting = shared.clone();
        std::thread::spawn(move || accepting.accept(&listener));
        CommitCutProxy { database, port, shared }
    }

    /// What happens to the next commits, one after the other; the others are left alone.
    pub fn cut(&self, script: impl IntoIterator<Item = Cut>) {
        self.shared.script.lock().unwrap().extend(script);
    }

    /// Commits that were cut, before and after.
    pub fn struck(&self) -> [usize; 2] {
        [&self.shared.struck[0], &self.shared.struck[1]].map(|count| count.load(Ordering::SeqCst))
    }

    /// The server is gone: connections are cut, and new ones come to nothing.
    pub fn go_away(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
        self.shared.open.lock().unwrap().drain(..).for_each(|both| both.cut());
    }

    /// The server is there again.
    pub fn come_back(&self) {
        self.shared.away.store(false, Ordering::SeqCst);
    }

    /// Connections that were tried.
    pub fn tries(&self) -> usize {
        self.shared.tries.load(Ordering::SeqCst)
    }
}

impl Drop for CommitCutProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.go_away();
        // Wakes the accepting thread.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            self.tries.fetch_add(1, Ordering::SeqCst);
            let mut open = self.open.lock().unwrap();
            // Under the lock: a connection that ends afterwards is found among the open ones.
            if self.away.load(Ordering::SeqCst) {
                continue;
            }
            client.set_nodelay(true).unwrap();
            let both = Both(client, UnixStream::connect(&self.server).unwrap());
            open.push(both.copy());
            drop(open);
            let deaf = Arc::new(AtomicBool::new(false));
            let (shared, back, is_deaf) = (self.clone(), both.copy(), deaf.clone());
            std::thread::spawn(move || shared.to_server(&both, &deaf));
            let shared = self.clone();
            std::thread::spawn(move || shared.to_client(&back, &is_deaf));
        }
    }

    fn to_server(&self, both: &Both, deaf: &AtomicBool) {
        pump(&both.0, &both.1, |bytes| {
            if bytes != COMMIT {
                return true;
            }
            match self.script.lock().unwrap().pop_front() {
                Some(Cut::Before) => {
                    self.struck[0].fetch_add(1, Ordering::SeqCst);
                    return false;
                }
                Some(Cut::After) => deaf.store(true, Ordering::SeqCst),
                Some(Cut::Never) | None => {}
            }
            true
        });
        both.cut();
    }

    fn to_client(&self, both: &Both, deaf: &AtomicBool) {
        pump(&both.1, &both.0, |bytes| {
            // The rest of an earlier answer may come first: a client goes on before it has read its last message.
            let cut = deaf.load(Ordering::SeqCst) && bytes.windows(DONE.len()).any(|part| part == DONE);
            self.struck[1].fetch_add(usize::from(cut), Ordering::SeqCst);
            !cut
        });
        both.cut();
    }
}

/// Copies until an end closes or `goes_on` says no to what came.
fn pump(mut from: impl Read, mut to: impl Write, goes_on: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !goes_on(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
