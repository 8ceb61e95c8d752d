//! A proxy between the service and PostgreSQL that cuts connections around their commits, as told, or all of them, and
//! that falls silent.
//!
//! It has threads of its own, because a service that starts blocks the test's.

use crate::support::database::Database;
use crate::support::wire::{Message, Messages};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What happens to one statement that stores a batch, and with it to its commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It does not reach the server.
    Before,
    /// The server commits, and its reply does not reach the service.
    After,
    /// The server commits, and from then on the proxy is silent.
    Silence,
    /// Cuts no connection.
    Never,
}

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
    /// Nothing is handed on, in either direction.
    silent: Mutex<bool>,
    spoke: Condvar,
    /// Of a transaction that replaces rows, only what comes before is handed on; the client hears what the server says.
    stalls_replacements: AtomicBool,
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
            silent: Mutex::new(false),
            spoke: Condvar::new(),
            stalls_replacements: AtomicBool::new(false),
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

    /// Everything goes through again, also what came meanwhile.
    pub fn speak(&self) {
        *self.shared.silent.lock().unwrap() = false;
        self.shared.spoke.notify_all();
    }

    /// Whether it is silent.
    pub fn is_silent(&self) -> bool {
        *self.shared.silent.lock().unwrap()
    }

    /// From now on a transaction that replaces rows gets the lock of the clock, and the rest of it does not arrive: its
    /// client might be frozen.
    pub fn stall_replacements(&self, stall: bool) {
        self.shared.stalls_replacements.store(stall, Ordering::SeqCst);
    }

    /// Connections that were tried.
    pub fn tries(&self) -> usize {
        self.shared.tries.load(Ordering::SeqCst)
    }
}

impl Drop for CommitCutProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.speak();
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
            let answers = Arc::new(Answers::default());
            let (shared, back, of_client) = (self.clone(), both.copy(), answers.clone());
            std::thread::spawn(move || shared.to_server(&both, &of_client));
            let shared = self.clone();
            std::thread::spawn(move || shared.to_client(&back, &answers));
        }
    }

    fn to_server(&self, both: &Both, answers: &Answers) {
        let mut stalled = false;
        pump(&both.0, &both.1, Messages::of_client(), |message| {
            stalled |= message.replaces() && self.stalls_replacements.load(Ordering::SeqCst);
            if stalled {
                return Next::Drop;
            }
            self.wait_while_silent();
            if message.wants_answer() {
                answers.wanted.fetch_add(1, Ordering::SeqCst);
            }
            if !message.stores() {
                return Next::HandOn;
            }
            let cut = self.script.lock().unwrap().pop_front();
            match cut {
                Some(Cut::Before) => {
                    self.struck[0].fetch_add(1, Ordering::SeqCst);
                    return Next::End;
                }
                Some(cut @ (Cut::After | Cut::Silence)) => {
                    // Its Sync comes next.
                    let last = answers.wanted.load(Ordering::SeqCst) + 1;
                    *answers.cut.lock().unwrap() = Some((last, cut));
                }
                Some(Cut::Never) | None => {}
            }
            Next::HandOn
        });
        both.cut();
    }

    fn to_client(&self, both: &Both, answers: &Answers) {
        let mut given = 0;
        pump(&both.1, &both.0, Messages::of_server(), |message| {
            self.wait_while_silent();
            let ready = message.kind == b'Z';
            // The first one ends the start of the session, which nothing asked for.
            given += usize::from(ready);
            let cut = *answers.cut.lock().unwrap();
            match cut {
                Some((last, cut)) if given > last => {
                    self.struck[1].fetch_add(1, Ordering::SeqCst);
                    if cut == Cut::Silence {
                        *answers.cut.lock().unwrap() = None;
                        *self.silent.lock().unwrap() = true;
                        self.wait_while_silent();
                        return Next::HandOn;
                    }
                    Next::End
                }
                _ => Next::HandOn,
            }
        });
        both.cut();
    }

    fn wait_while_silent(&self) {
        let silent = self.silent.lock().unwrap();
        drop(self.spoke.wait_while(silent, |silent| *silent).unwrap());
    }
}

/// The answers of one connection.
#[derive(Default)]
struct Answers {
    wanted: AtomicUsize,
    /// The number of the answer that the client does not get, and what happens then.
    cut: Mutex<Option<(usize, Cut)>>,
}

/// What becomes of a message.
enum Next {
    HandOn,
    Drop,
    End,
}

/// Copies until an end closes or `next` says so.
fn pump(
    mut from: impl Read,
    mut to: impl Write,
    mut messages: Messages,
    mut next: impl FnMut(&Message) -> Next,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        for message in messages.feed(&buffer[..read]) {
            match next(&message) {
                Next::HandOn if to.write_all(&message.bytes).is_ok() => {}
                Next::Drop => {}
                Next::HandOn | Next::End => return,
            }
        }
    }
}
