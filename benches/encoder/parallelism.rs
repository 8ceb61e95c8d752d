//! The encoders of the service side by side, over texts that wait as they do there.

use lnsp_ingest::encoder::plan::{self, Budget};
use lnsp_ingest::encoder::{EncodeError, Encoder, TchEncoder, Tokens};
use std::collections::VecDeque;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// As many texts as the service lets wait for the model.
const WINDOW: usize = 512;

/// Texts as they wait for the encoders of the service under load, and what was made of them.
struct Queue<'a> {
    coming: std::slice::Iter<'a, Tokens>,
    waiting: VecDeque<&'a Tokens>,
    running: usize,
    real: usize,
    computed: usize,
}

impl<'a> Queue<'a> {
    fn new(tokens: &'a [Tokens]) -> Mutex<Self> {
        let mut coming = tokens.iter();
        let waiting = coming.by_ref().take(WINDOW).collect();
        Mutex::new(Queue { coming, waiting, running: 0, real: 0, computed: 0 })
    }

    /// The next pass for one of so many encoders, which has done the last one, of `done` tokens.
    fn pull(&mut self, budget: Budget, encoders: usize, done: usize) -> Vec<&'a Tokens> {
        self.running -= done;
        let lengths: Vec<usize> = self.waiting.iter().map(|text| text.len()).collect();
        let mut chosen = plan::choose(&lengths, budget.share(&lengths, self.running, encoders));
        let longest = chosen.iter().map(|&text| lengths[text]).max().unwrap_or_default();
        self.computed += chosen.len() * longest;
        chosen.sort_unstable();
        let mut pass: Vec<&Tokens> =
            chosen.iter().rev().filter_map(|&text| self.waiting.remove(text)).collect();
        pass.sort_by_key(|text| text.len());
        self.real += length(&pass);
        self.running += length(&pass);
        self.waiting.extend(self.coming.by_ref().take(pass.len()));
        pass
    }
}

fn length(pass: &[&Tokens]) -> usize {
    pass.iter().map(|text| text.len()).sum()
}

/// Encodes everything with so many encoders at once; gives the time it took, in seconds, and the share of padding.
pub fn encode_all(
    first: &Mutex<TchEncoder>,
    encoders: usize,
    tokens: &[Tokens],
    budget: Budget,
) -> Result<(f64, f64), EncodeError> {
    let queue = Queue::new(tokens);
    let ready = Barrier::new(encoders);
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<(Instant, Instant), EncodeError> {
        let mut encoder = first.lock().unwrap_or_else(PoisonError::into_inner).share_weights();
        // The first pass on a thread makes libtorch's state for it.
        let warm = encoder.encode(&tokens.iter().take(8).collect::<Vec<_>>());
        ready.wait();
        warm?;
        let start = Instant::now();
        let mut done = 0;
        loop {
            let pass = lock().pull(budget, encoders, done);
            if pass.is_empty() {
                return Ok((start, Instant::now()));
            }
            for vector in encoder.encode(&pass)? {
                vector?;
            }
            done = length(&pass);
        }
    };
    let times = thread::scope(|scope| {
        let threads: Vec<_> = (0..encoders).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Result<Vec<_>, _>>()
    })?;
    let start = times.iter().map(|(start, _)| start).min();
    let end = times.iter().map(|(_, end)| end).max();
    let took = start.zip(end).map_or(f64::NAN, |(start, end)| end.duration_since(*start).as_secs_f64());
    let queue = lock();
    Ok((took, 1.0 - queue.real as f64 / queue.computed as f64))
}
