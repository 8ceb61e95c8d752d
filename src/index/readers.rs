//! A few threads that answer queries for callers that must not block.

use super::shared::Shared;
use super::writer::message_of;
use super::{Effort, Found, IndexError};
use crate::threads::{Progress, lock};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Queries that may wait for a thread; whoever comes later waits before it is in.
const QUEUE: usize = 64;

struct Query {
    vector: Arc<[f32]>,
    k: usize,
    effort: Effort,
    reply: oneshot::Sender<Result<Found, IndexError>>,
}

pub(super) struct Readers {
    queue: Option<mpsc::Sender<Query>>,
    threads: Vec<JoinHandle<()>>,
    pub(super) progress: Vec<Progress>,
}

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Readers, IndexError> {
        let (queue, queries) = mpsc::channel(QUEUE);
        let queries = Arc::new(Mutex::new(queries));
        let mut readers = Readers { queue: Some(queue), threads: Vec::new(), progress: Vec::new() };
        for n in 0..shared.options.read_threads.max(1) {
            let (shared, queries) = (shared.clone(), queries.clone());
            let name = format!("lnsp-search-{n}");
            let progress = Progress::of_thread(&name);
            readers.progress.push(progress.clone());
            let thread = std::thread::Builder::new().name(name);
            let thread = thread.spawn(move || serve(&shared, &progress, &queries));
            readers.threads.push(thread.map_err(|error| IndexError::io("the search threads", error))?);
        }
        Ok(readers)
    }

    pub(super) async fn search(
        &self,
        vector: Arc<[f32]>,
        k: usize,
        effort: Effort,
    ) -> Result<Found, IndexError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(IndexError::Closed)?;
        queue.send(Query { vector, k, effort, reply }).await.map_err(|_| IndexError::Closed)?;
        answer.await.map_err(|_| IndexError::Closed)?
    }
}

fn serve(shared: &Shared, progress: &Progress, queries: &Mutex<mpsc::Receiver<Query>>) {
    let life = progress.live();
    // One thread waits for the queue, the others for the one that waits.
    let next = || lock(queries).blocking_recv();
    while let Some(Query { vector, k, effort, reply }) = next() {
        if reply.is_closed() {
            continue;
        }
        let _activity = progress.begin("at one search");
        let found = catch_unwind(AssertUnwindSafe(|| shared.search(&vector, k, effort)))
            .unwrap_or_else(|panic| Err(IndexError::Panicked(message_of(panic.as_ref()))));
        // Whoever asked may have gone away.
        drop(reply.send(found));
    }
    life.end();
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A reader never panics outside of `catch_unwind`; if it did, there is nobody left to tell.
            drop(thread.join());
        }
    }
}
