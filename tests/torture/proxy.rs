//! Stands between the service and PostgreSQL, and cuts connections at the worst moment: when the statement that stores a
//! batch, a transaction of its own, has gone to the server, and its answer has not come, or has come and is not handed on.

use crate::wire::Messages;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running proxy between the service and PostgreSQL.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    socket: PathBuf,
    /// How the next batch is cut, if it is.
    armed: watch::Sender<Option<Cut>>,
    cuts: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// At once.
    BeforeTheAnswer,
    /// When the server has answered, and so has committed.
    InPlaceOfTheAnswer,
}

impl Proxy {
    /// Before the server whose socket is in this folder.
    pub async fn start(folder: PathBuf) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = folder.join(".s.PGSQL.5432");
        let shared = Arc::new(Shared { socket, armed: watch::Sender::new(None), cuts: AtomicU64::new(0) });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(stand_between(client, serving.clone()));
            }
        });
        Proxy { port, shared, task }
    }

    /// For the service.
    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=lnsp dbname=lnsp", self.port)
    }

    /// The next batch is cut, after its answer or before.
    pub fn arm(&self, after: bool) {
        let cut = if after { Cut::InPlaceOfTheAnswer } else { Cut::BeforeTheAnswer };
        self.shared.armed.send_replace(Some(cut));
    }

    /// Waits until it was.
    pub async fn disarmed(&self) {
        drop(self.shared.armed.subscribe().wait_for(Option::is_none).await);
    }

    /// Batches that were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. When this returns, both its sides are closed.
async fn stand_between(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = UnixStream::connect(&shared.socket).await else { return };
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut sent, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut messages, mut stores) = (Messages::of_client(), false);
    loop {
        tokio::select! {
            read = from_client.read(&mut sent) => {
                let Ok(size @ 1..) = read else { return };
                let mut whole = false;
                for message in messages.feed(&sent[..size]) {
                    stores |= message.stores();
                    // Its Sync is its COMMIT.
                    whole |= stores && message.wants_answer();
                    stores &= !message.wants_answer();
                }
                let cut = if whole { shared.armed.send_replace(None) } else { None };
                if to_server.write_all(&sent[..size]).await.is_err() {
                    return;
                }
                if let Some(cut) = cut {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    if let Cut::InPlaceOfTheAnswer = cut {
                        drop(from_server.read(&mut answered).await);
                    }
                    return;
                }
            }
            read = from_server.read(&mut answered) => {
                let Ok(size @ 1..) = read else { return };
                if hand_on(&mut to_client, &answered[..size]).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn hand_on(to: &mut OwnedWriteHalf, bytes: &[u8]) -> Option<()> {
    to.write_all(bytes).await.ok()
}
