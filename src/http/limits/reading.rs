//! The JSON bodies that are being read into memory, and the answers to searches that are being taken. When memory or
//! permits are short, the one whose client made the service wait the longest is cut, so that slow clients never lock out
//! the others.

use crate::threads::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The bodies that are being read.
#[derive(Default)]
pub struct ReadingBodies(Mutex<Vec<Arc<ClientWait>>>);

/// How long one body made the service wait for its client.
#[derive(Default)]
struct ClientWait {
    /// The waits that have ended, and the start of the current one.
    waited: Mutex<(Duration, Option<Instant>)>,
    cut: CancellationToken,
}

impl ClientWait {
    fn total(&self) -> Duration {
        let (ended, current) = *lock(&self.waited);
        ended + current.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// One body that is being read. Dropping it ends the reading.
pub struct ReadingBody<'a> {
    bodies: &'a ReadingBodies,
    wait: Arc<ClientWait>,
}

impl ReadingBodies {
    /// Begins to read a body.
    pub fn begin(&self) -> ReadingBody<'_> {
        let wait = Arc::<ClientWait>::default();
        lock(&self.0).push(wait.clone());
        ReadingBody { bodies: self, wait }
    }

    /// Whether [`Self::cut_slowest`] would find a body.
    pub fn has_slower(&self, than: Duration) -> bool {
        lock(&self.0).iter().any(|wait| wait.total() > than)
    }

    /// Cuts the body that waited longest for its client, if that is longer than this. Returns whether there was one.
    pub fn cut_slowest(&self, than: Duration) -> bool {
        let mut bodies = lock(&self.0);
        let waits = bodies.iter().map(|wait| wait.total()).enumerate();
        let slowest = waits.filter(|(_, total)| *total > than).max_by_key(|(_, total)| *total);
        let Some((position, _)) = slowest else { return false };
        bodies.swap_remove(position).cut.cancel();
        true
    }
}

impl ReadingBody<'_> {
    /// Waits for the client. `None` when the body is cut.
    pub async fn wait<T>(&self, received: impl Future<Output = T>) -> Option<T> {
        lock(&self.wait.waited).1 = Some(Instant::now());
        let received = tokio::select! {
            biased;
            () = self.wait.cut.cancelled() => None,
            received = received => Some(received),
        };
        let (ended, current) = &mut *lock(&self.wait.waited);
        *ended += current.take().map_or(Duration::ZERO, |since| since.elapsed());
        received
    }

    /// The time that the service waited for the client so far.
    pub fn waited(&self) -> Duration {
        self.wait.total()
    }
}

impl Drop for ReadingBody<'_> {
    fn drop(&mut self) {
        lock(&self.bodies.0).retain(|wait| !Arc::ptr_eq(wait, &self.wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::future::{pending, ready};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn the_body_that_waits_longest_for_its_client_is_cut_first() {
        let bodies = ReadingBodies::default();
        let (slow, slower) = (bodies.begin(), bodies.begin());
        lock(&slow.wait.waited).0 = 20 * SECOND;
        lock(&slower.wait.waited).0 = 40 * SECOND;
        let mut first = std::pin::pin!(slower.wait(pending::<()>()));
        let mut second = std::pin::pin!(slow.wait(pending::<()>()));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        let never = Duration::MAX;
        assert!(!bodies.cut_slowest(never) && !bodies.has_slower(never));
        assert!(bodies.has_slower(20 * SECOND) && bodies.cut_slowest(20 * SECOND));
        assert_eq!(first.await, None);
        assert!(poll!(&mut second).is_pending(), "the other one is still read");
        assert!(bodies.cut_slowest(SECOND) && !bodies.cut_slowest(SECOND));
        assert_eq!(second.await, None);
    }

    #[tokio::test]
    async fn only_waiting_counts_and_an_ended_body_is_forgotten() {
        let bodies = ReadingBodies::default();
        let fast = bodies.begin();
        assert_eq!(fast.wait(ready(7)).await, Some(7));
        let waited = fast.waited();
        std::thread::yield_now();
        assert_eq!(fast.waited(), waited, "time between two waits is not the client's");
        drop(fast);
        assert!(lock(&bodies.0).is_empty());
    }
}
