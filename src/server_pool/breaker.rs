//! The circuit breaker of one server: failures in a row open it, a probe in the background ends the pause, and one call
//! decides whether it closes. Pure: it has no clock; the pauses that it returns are waited for by the pool.

use crate::flow::Backoff;
use std::time::Duration;

/// Failures in a row that open the breaker.
const FAILURES: u32 = 10;
/// Failed connections in a row that open it while other servers can be used. Fewer than other failures, because such a
/// server does no work at all; more than one, because a server that restarts a worker breaks a connection now and then.
const UNREACHABLE: u32 = 3;

/// What a failed call says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It cannot be reached: no connection, or a broken one.
    Unreachable,
    /// It has more to do than it can: 429, 503, no answer in time.
    Overloaded,
    /// It failed in another way that may pass.
    Faulty,
    /// It is not a server of this pool: it has not the model, or has another one.
    Unfit,
    /// Nothing: the request may be at fault.
    Request,
}

/// The pauses between probes of a server that is not used.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// Of a server that cannot be reached. Short: a refused connection costs nothing, and a server that has come back
    /// is to be used within seconds.
    pub unreachable: Backoff,
    /// Of a server that failed in another way.
    pub failing: Backoff,
    /// Of a server that is left out.
    pub unfit: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        let backoff = |first, ceiling| Backoff {
            first: Duration::from_secs(first),
            ceiling: Duration::from_secs(ceiling),
        };
        Pauses { unreachable: backoff(1, 4), failing: backoff(5, 60), unfit: Duration::from_secs(60) }
    }
}

/// Whether calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Circuit {
    /// As many as there is room for.
    #[default]
    Closed,
    /// None until a probe succeeds.
    Open { unfit: bool },
    /// A probe has succeeded: one call at a time, which closes the breaker or opens it again.
    Trial,
}

/// The breaker of one server.
#[derive(Debug, Default)]
pub struct Breaker {
    circuit: Circuit,
    failures: u32,
    unreachable: u32,
    /// Openings, and failed probes, since the last success.
    openings: u32,
}

/// How a server is used at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Calls are made, and the last one succeeded.
    Ready,
    /// Calls are made; the last one failed.
    Failing,
    /// One call at a time is made, to try it out after a pause.
    Trial,
    /// No calls are made for a while, after failures in a row.
    Resting,
    /// No calls are made, because it has not what is needed. It is asked again every minute.
    LeftOut,
}

impl Standing {
    /// The name in `/health`.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Ready => "answers",
            Standing::Failing => "failing",
            Standing::Trial => "trial",
            Standing::Resting => "resting",
            Standing::LeftOut => "left_out",
        }
    }

    /// Whether calls are made.
    pub fn is_usable(self) -> bool {
        !matches!(self, Standing::Resting | Standing::LeftOut)
    }

    /// The value of the gauge: 0 closed, 1 half open, 2 open, 3 left out.
    pub fn gauge(self) -> f64 {
        match self {
            Standing::Ready | Standing::Failing => 0.0,
            Standing::Trial => 1.0,
            Standing::Resting => 2.0,
            Standing::LeftOut => 3.0,
        }
    }
}

impl Breaker {
    /// How the server is used.
    pub fn standing(&self) -> Standing {
        match self.circuit {
            Circuit::Closed if self.failures == 0 => Standing::Ready,
            Circuit::Closed => Standing::Failing,
            Circuit::Open { unfit: false } => Standing::Resting,
            Circuit::Open { unfit: true } => Standing::LeftOut,
            Circuit::Trial => Standing::Trial,
        }
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Records a success and closes the breaker; true if it was not closed.
    pub fn on_success(&mut self) -> bool {
        std::mem::take(self).circuit != Circuit::Closed
    }

    /// Records a failed call. `others` says whether other servers can be used: the last one is not given up at the
    /// first sign. Returns the pause before the first probe if the breaker opens. Calls that end while it is open
    /// change nothing: they were made before it opened.
    pub fn on_failure(&mut self, effect: Effect, others: bool, pauses: &Pauses) -> Option<Duration> {
        if effect == Effect::Request {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.unreachable = if effect == Effect::Unreachable { self.unreachable.saturating_add(1) } else { 0 };
        let early = others && (effect == Effect::Unfit || self.unreachable >= UNREACHABLE);
        match self.circuit {
            Circuit::Open { .. } => None,
            Circuit::Closed if !early && self.failures < FAILURES => None,
            Circuit::Closed | Circuit::Trial => {
                let pause = self.open(effect, others, pauses);
                // One answer may be wrong: whether the server really has not what is needed shows in a probe.
                let unfit = self.standing() == Standing::LeftOut;
                Some(if unfit { pause.min(pauses.unreachable.first) } else { pause })
            }
        }
    }

    /// Records the result of a probe, made at the start or during a pause. Returns the pause before the next one if it
    /// failed and the server is not used. A failure at the start is no reason to give up the last server.
    pub fn on_probe(&mut self, failed: Option<Effect>, others: bool, pauses: &Pauses) -> Option<Duration> {
        match (failed, self.circuit) {
            (None, Circuit::Open { .. }) => {
                self.circuit = Circuit::Trial;
                None
            }
            (Some(_), Circuit::Closed) if !others => None,
            (Some(effect), Circuit::Closed | Circuit::Open { .. }) => Some(self.open(effect, others, pauses)),
            (None, Circuit::Closed | Circuit::Trial) | (Some(_), Circuit::Trial) => None,
        }
    }

    fn open(&mut self, effect: Effect, others: bool, pauses: &Pauses) -> Duration {
        // The only server that is left is not left out for a minute.
        let unfit = effect == Effect::Unfit && (others || self.circuit == Circuit::Open { unfit: true });
        self.circuit = Circuit::Open { unfit };
        let before = self.openings;
        self.openings = before.saturating_add(1);
        match effect {
            _ if unfit => pauses.unfit,
            Effect::Unreachable => pauses.unreachable.pause(before),
            _ => pauses.failing.pause(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses {
        unreachable: Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(4) },
        failing: Backoff { first: Duration::from_secs(5), ceiling: Duration::from_secs(60) },
        unfit: Duration::from_secs(60),
    };

    fn fail(breaker: &mut Breaker, effect: Effect, others: bool) -> Option<u64> {
        breaker.on_failure(effect, others, &PAUSES).map(|pause| pause.as_secs())
    }

    fn probe(breaker: &mut Breaker, failed: Option<Effect>) -> Option<u64> {
        breaker.on_probe(failed, true, &PAUSES).map(|pause| pause.as_secs())
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_a_call_after_a_probe_closes_it() {
        let mut breaker = Breaker::default();
        for n in 1..30 {
            assert_eq!(fail(&mut breaker, Effect::Faulty, true), None);
            assert_eq!(breaker.standing(), Standing::Failing);
            if n % 9 == 0 {
                assert!(!breaker.on_success(), "nine in a row do not open it");
                assert_eq!(breaker.standing(), Standing::Ready);
            }
        }
        while fail(&mut breaker, Effect::Faulty, true).is_none() {}
        assert_eq!((breaker.failures(), breaker.standing()), (10, Standing::Resting));
        assert_eq!(fail(&mut breaker, Effect::Faulty, true), None, "a call from before it opened");
        assert_eq!(probe(&mut breaker, None), None);
        assert_eq!(breaker.standing(), Standing::Trial);
        assert!(breaker.on_success());
        assert_eq!(breaker.standing(), Standing::Ready);
    }

    #[test]
    fn pauses_double_up_to_their_ceiling_until_a_call_succeeds() {
        let pauses = |effect| {
            let mut breaker = Breaker::default();
            while fail(&mut breaker, effect, true).is_none() {}
            // The first pause was that of the opening. A trial call that fails goes on where the probes were.
            let mut pauses: Vec<Option<u64>> = (0..3).map(|_| probe(&mut breaker, Some(effect))).collect();
            assert_eq!(probe(&mut breaker, None), None);
            pauses.push(fail(&mut breaker, effect, true));
            pauses
        };
        assert_eq!(pauses(Effect::Unreachable), [2, 4, 4, 4].map(Some));
        assert_eq!(pauses(Effect::Overloaded), [10, 20, 40, 60].map(Some));
        assert_eq!(pauses(Effect::Unfit), [60, 60, 60, 1].map(Some));
    }

    #[test]
    fn a_server_that_is_gone_or_unfit_is_given_up_sooner_while_there_are_others() {
        let count = |effect, others| {
            let mut breaker = Breaker::default();
            (1..).find(|_| fail(&mut breaker, effect, others).is_some()).unwrap()
        };
        assert_eq!([true, false].map(|others| count(Effect::Unreachable, others)), [3, 10]);
        assert_eq!([true, false].map(|others| count(Effect::Unfit, others)), [1, 10]);
        assert_eq!([true, false].map(|others| count(Effect::Faulty, others)), [10, 10]);
        let mut last = Breaker::default();
        while fail(&mut last, Effect::Unfit, false).is_none() {}
        assert_eq!(last.standing(), Standing::Resting, "the last server is not left out for a minute");
        assert_eq!(Breaker::default().on_probe(Some(Effect::Unreachable), false, &PAUSES), None);
        assert_eq!(probe(&mut Breaker::default(), Some(Effect::Unreachable)), Some(1));
        assert_eq!(fail(&mut Breaker::default(), Effect::Request, true), None);
    }
}
