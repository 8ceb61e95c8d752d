//! Which call goes to which server, and what is known of each. The state of a pool behind its mutex; it has no clock and
//! makes no calls.

use super::breaker::{Breaker, Effect, Pauses, Standing};
use super::limiter::{CallEnding, CallMark, Limiter};
use super::retry_budget::RetryBudget;
use crate::threads::Lane;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Which calls that wait are served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// In the order in which they came.
    InOrder,
    /// Only while no other call of the lane waits.
    Last,
}

/// Permission for one call to one server; to be given back.
#[derive(Debug)]
pub struct Grant {
    /// The place of the server in the list.
    pub server: usize,
    lane: Lane,
    /// For the limiter; calls of the express lane are not limited by it.
    mark: Option<CallMark>,
    trial: bool,
}

/// A call that waits for a server.
#[derive(Debug)]
pub struct Waiter {
    avoid: Vec<usize>,
    grant: oneshot::Sender<Grant>,
}

/// What is known of one server.
#[derive(Debug)]
pub struct ServerRecord {
    /// The requests that it takes at once, as configured.
    pub slots: usize,
    /// Whether it is used.
    pub breaker: Breaker,
    /// How many calls at once it works on.
    pub limiter: Limiter,
    /// The last failure since the start, as a sentence, and when.
    pub last_failure: Option<(String, Instant)>,
    /// The number of the task that probes it, while it is not used.
    pub probing: Option<u64>,
    bulk: usize,
    express: usize,
}

impl ServerRecord {
    fn new(slots: usize) -> ServerRecord {
        ServerRecord {
            slots,
            breaker: Breaker::default(),
            limiter: Limiter::new(slots),
            last_failure: None,
            probing: None,
            bulk: 0,
            express: 0,
        }
    }

    /// Calls under way, in both lanes.
    pub fn in_flight(&self) -> usize {
        self.bulk + self.express
    }

    fn has_room(&self, lane: Lane) -> bool {
        match (self.breaker.standing(), lane) {
            (Standing::Resting | Standing::LeftOut, _) => false,
            (Standing::Trial, _) => self.in_flight() == 0,
            (Standing::Ready | Standing::Failing, Lane::Bulk) => self.bulk < self.limiter.limit(),
            (Standing::Ready | Standing::Failing, Lane::Express) => self.express < self.slots,
        }
    }

    /// Whether it has fewer calls in flight than `other`, each relative to its limit.
    fn is_freer_than(&self, other: &ServerRecord) -> bool {
        self.in_flight() * other.limiter.limit() < other.in_flight() * self.limiter.limit()
    }
}

/// The servers, and the calls that wait for them.
#[derive(Debug)]
pub struct Dispatch {
    /// In the order of the list.
    pub servers: Vec<ServerRecord>,
    /// Which retries are allowed.
    pub budget: RetryBudget,
    pauses: Pauses,
    /// The moment from which times are counted.
    began: Instant,
    /// The server that is looked at first: the next one after that of the last call.
    turn: usize,
    /// Calls that wait, in the order in which the queues are served.
    queues: [Queue; 3],
}

/// Calls that wait for a slot of one lane.
#[derive(Debug)]
struct Queue {
    lane: Lane,
    waiting: VecDeque<Waiter>,
}

impl Queue {
    fn of(lane: Lane) -> Queue {
        Queue { lane, waiting: VecDeque::new() }
    }
}

/// The place of a queue in [`Dispatch::queues`].
fn queue(lane: Lane, turn: Turn) -> usize {
    match (lane, turn) {
        (Lane::Express, _) => 0,
        (Lane::Bulk, Turn::InOrder) => 1,
        (Lane::Bulk, Turn::Last) => 2,
    }
}

impl Dispatch {
    /// Servers with so many slots each.
    pub fn new(slots: &[usize], pauses: Pauses, now: Instant) -> Dispatch {
        Dispatch {
            servers: slots.iter().copied().map(ServerRecord::new).collect(),
            budget: RetryBudget::new(slots.iter().sum(), now),
            pauses,
            began: now,
            turn: 0,
            queues: [Lane::Express, Lane::Bulk, Lane::Bulk].map(Queue::of),
        }
    }

    /// Whether calls are made to any server.
    pub fn is_usable(&self) -> bool {
        self.servers.iter().any(|server| server.breaker.standing().is_usable())
    }

    /// Whether calls are made to a server that is not among `tried`.
    pub fn has_another(&self, tried: &[usize]) -> bool {
        let usable = |(place, server): (usize, &ServerRecord)| {
            !tried.contains(&place) && server.breaker.standing().is_usable()
        };
        self.servers.iter().enumerate().any(usable)
    }

    /// A grant at once, if there is room and no call waits that comes first.
    pub fn grant_at_once(&mut self, lane: Lane, turn: Turn, avoid: &[usize]) -> Option<Grant> {
        let first = |other: &Queue| other.lane == lane && !other.waiting.is_empty();
        // A call that is repeated does not wait behind others.
        if avoid.is_empty() && self.queues[..=queue(lane, turn)].iter().any(first) {
            return None;
        }
        let server = self.choose(lane, avoid)?;
        Some(self.take(server, lane))
    }

    /// Waits in line; a call that is repeated comes first.
    pub fn wait(&mut self, lane: Lane, turn: Turn, avoid: &[usize]) -> oneshot::Receiver<Grant> {
        let (grant, receiver) = oneshot::channel();
        let waiter = Waiter { avoid: avoid.to_vec(), grant };
        let waiting = &mut self.queues[queue(lane, turn)].waiting;
        match avoid.is_empty() {
            true => waiting.push_back(waiter),
            false => waiting.push_front(waiter),
        }
        receiver
    }

    /// The server with room that is the freest; those to avoid only where no other is used.
    fn choose(&self, lane: Lane, avoid: &[usize]) -> Option<usize> {
        let avoid = if self.has_another(avoid) { avoid } else { &[] };
        let count = self.servers.len();
        let mut chosen: Option<usize> = None;
        for place in (0..count).map(|step| (self.turn + step) % count) {
            let server = &self.servers[place];
            if server.has_room(lane)
                && !avoid.contains(&place)
                && chosen.is_none_or(|best| server.is_freer_than(&self.servers[best]))
            {
                chosen = Some(place);
            }
        }
        chosen
    }

    fn take(&mut self, place: usize, lane: Lane) -> Grant {
        self.turn = (place + 1) % self.servers.len();
        let server = &mut self.servers[place];
        let trial = server.breaker.standing() == Standing::Trial;
        match lane {
            Lane::Bulk => server.bulk += 1,
            Lane::Express => server.express += 1,
        }
        let mark = match lane {
            Lane::Bulk => Some(server.limiter.on_start(server.bulk, self.began.elapsed())),
            Lane::Express => None,
        };
        Grant { server: place, lane, mark, trial }
    }

    /// Ends a call; the limiter learns how.
    fn leave(&mut self, grant: &Grant, took: Duration, ending: CallEnding) {
        let server = &mut self.servers[grant.server];
        if let Some(mark) = grant.mark {
            server.limiter.on_end(mark, took, ending, server.bulk, self.began.elapsed());
        }
        let count = match grant.lane {
            Lane::Bulk => &mut server.bulk,
            Lane::Express => &mut server.express,
        };
        *count = count.saturating_sub(1);
    }

    /// A call that ended without a result: it was given up.
    pub fn on_abandoned(&mut self, grant: &Grant) {
        self.leave(grant, Duration::ZERO, CallEnding::Other);
        self.serve_waiting();
    }

    /// A call that was answered after so long. True if its server was not used before, or only tried.
    pub fn on_success(&mut self, grant: &Grant, took: Duration) -> bool {
        let server = &mut self.servers[grant.server];
        let back = server.breaker.on_success();
        if back {
            // It may have been started anew with other slots.
            server.limiter = Limiter::new(server.slots);
        }
        self.leave(grant, took, if back { CallEnding::Other } else { CallEnding::Answered });
        self.serve_waiting();
        back
    }

    /// A call that failed after so long. Returns the pause before the first probe if its breaker opens.
    pub fn on_failure(&mut self, grant: &Grant, took: Duration, effect: Effect) -> Option<Duration> {
        let others = self.has_another(&[grant.server]);
        let server = &mut self.servers[grant.server];
        // A call from before the pause says nothing about the server after it.
        let stale = server.breaker.standing() == Standing::Trial && !grant.trial;
        let pause = if stale { None } else { server.breaker.on_failure(effect, others, &self.pauses) };
        let ending = if effect == Effect::Overloaded { CallEnding::Overloaded } else { CallEnding::Other };
        self.leave(grant, took, ending);
        self.serve_waiting();
        pause
    }

    /// A probe of a server. Returns the pause before the next one if it failed and the server is not used.
    pub fn on_probe(&mut self, place: usize, failed: Option<Effect>) -> Option<Duration> {
        let others = self.has_another(&[place]);
        let pause = self.servers[place].breaker.on_probe(failed, others, &self.pauses);
        self.serve_waiting();
        pause
    }

    /// Gives grants to the calls that wait, in their order, as far as there is room. Where no server is used any more,
    /// the calls that wait end without one.
    fn serve_waiting(&mut self) {
        if !self.is_usable() {
            self.queues.iter_mut().for_each(|queue| queue.waiting.clear());
            return;
        }
        for at in 0..self.queues.len() {
            let lane = self.queues[at].lane;
            let mut place = 0;
            while self.servers.iter().any(|server| server.has_room(lane)) {
                let Some(waiter) = self.queues[at].waiting.get_mut(place) else { break };
                let avoid = std::mem::take(&mut waiter.avoid);
                let Some(server) = self.choose(lane, &avoid) else {
                    self.queues[at].waiting[place].avoid = avoid;
                    place += 1;
                    continue;
                };
                let grant = self.take(server, lane);
                if let Some(waiter) = self.queues[at].waiting.remove(place)
                    && let Err(unwanted) = waiter.grant.send(grant)
                {
                    self.leave(&unwanted, Duration::ZERO, CallEnding::Other);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slots: &[usize]) -> Dispatch {
        Dispatch::new(slots, Pauses::default(), Instant::now())
    }

    fn fill(pool: &mut Dispatch, calls: usize) -> Vec<Grant> {
        (0..calls).map_while(|_| pool.grant_at_once(Lane::Bulk, Turn::InOrder, &[])).collect()
    }

    fn shares(pool: &Dispatch) -> Vec<usize> {
        pool.servers.iter().map(ServerRecord::in_flight).collect()
    }

    #[test]
    fn calls_go_to_the_server_that_is_freest_for_its_slots() {
        let mut pool = pool(&[10, 4, 2]);
        let grants = fill(&mut pool, 8);
        assert_eq!(shares(&pool), [5, 2, 1]);
        let more = fill(&mut pool, 100);
        assert_eq!((more.len(), shares(&pool)), (8, vec![10, 4, 2]));
        for grant in grants.iter().chain(&more) {
            pool.on_success(grant, Duration::from_secs(1));
        }
        assert_eq!(shares(&pool), [0, 0, 0]);
        let turns: Vec<usize> = fill(&mut pool, 3).iter().map(|grant| grant.server).collect();
        assert_eq!(turns.len(), 3);
        assert!([0, 1, 2].iter().all(|server| turns.contains(server)), "ties go round: {turns:?}");
    }

    #[test]
    fn waiting_calls_are_served_in_order_and_repeated_ones_first() {
        let mut pool = pool(&[1, 1]);
        let grants = fill(&mut pool, 9);
        let mut first = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        let mut second = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        let mut repeated = pool.wait(Lane::Bulk, Turn::InOrder, &[grants[0].server]);
        assert!(pool.grant_at_once(Lane::Bulk, Turn::InOrder, &[]).is_none());
        let express = pool.grant_at_once(Lane::Express, Turn::InOrder, &[]);
        assert!(express.is_some(), "searches do not wait for ingest");
        pool.on_success(&grants[0], Duration::from_secs(1));
        assert!(repeated.try_recv().is_err(), "it wants another server");
        let granted = first.try_recv().unwrap();
        assert_eq!(granted.server, grants[0].server);
        pool.on_success(&grants[1], Duration::from_secs(1));
        assert_eq!(repeated.try_recv().unwrap().server, grants[1].server);
        drop(second.try_recv());
        drop(second);
        pool.on_abandoned(&granted);
        assert_eq!(pool.servers[granted.server].bulk, 0, "a call that no longer waits gets nothing");
    }

    #[test]
    fn the_last_server_that_rests_ends_the_wait() {
        let mut pool = pool(&[1, 1]);
        let grants = fill(&mut pool, 2);
        let mut waiting = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        let second = Duration::from_secs(1);
        assert!(pool.on_failure(&grants[0], second, Effect::Unfit).is_some());
        let grant = pool.grant_at_once(Lane::Bulk, Turn::InOrder, &[grants[0].server]);
        assert!(grant.is_none() && pool.has_another(&[]) && !pool.has_another(&[grants[1].server]));
        assert!(pool.on_failure(&grants[1], second, Effect::Unfit).is_none(), "the last one is kept");
        let mut grant = waiting.try_recv().unwrap();
        let mut waiting = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        while pool.on_failure(&grant, second, Effect::Faulty).is_none() {
            grant = waiting.try_recv().unwrap();
            waiting = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        }
        assert!(matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(!pool.is_usable());
        // A probe succeeds: one call tries the server, the next ones wait for its result.
        assert_eq!(pool.on_probe(1, None), None);
        let trial = fill(&mut pool, 2);
        assert_eq!((trial.len(), trial[0].server), (1, 1));
        assert!(pool.on_success(&trial[0], second));
    }

    #[test]
    fn calls_whose_turn_is_last_wait_for_all_others() {
        let mut pool = pool(&[1]);
        let grant = pool.grant_at_once(Lane::Bulk, Turn::Last, &[]).unwrap();
        let mut last = pool.wait(Lane::Bulk, Turn::Last, &[]);
        assert!(pool.grant_at_once(Lane::Bulk, Turn::InOrder, &[]).is_none(), "there is no room");
        let mut first = pool.wait(Lane::Bulk, Turn::InOrder, &[]);
        pool.on_success(&grant, Duration::from_secs(1));
        let grant = first.try_recv().unwrap();
        assert!(last.try_recv().is_err());
        pool.on_success(&grant, Duration::from_secs(1));
        assert!(last.try_recv().is_ok());
    }
}
