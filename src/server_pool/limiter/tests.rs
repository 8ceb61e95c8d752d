//! The limiter against simulated servers, with a clock that is a number.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A server with slots and a queue, and a client that always has more to ask.
struct Simulation {
    limiter: Limiter,
    server: Server,
    random: StdRng,
    /// The clock, in microseconds.
    now: u64,
    in_flight: usize,
    /// Calls in a slot: when they end, and their start and mark by number.
    working: BinaryHeap<Reverse<(u64, usize)>>,
    waiting: VecDeque<usize>,
    calls: Vec<(u64, CallMark)>,
    answered: usize,
    refused: usize,
}

#[derive(Clone, Copy)]
struct Server {
    slots: usize,
    /// Further calls are refused, not queued.
    refuses: bool,
    median_us: f64,
    /// The standard deviation of the logarithm of the time.
    spread: f64,
    /// How much longer a call takes for each other one at work.
    company: f64,
}

const QUICK: Server = Server { slots: 10, refuses: false, median_us: 887e3, spread: 0.0, company: 0.0 };

impl Simulation {
    fn new(slots: usize, server: Server, seed: u64) -> Simulation {
        Simulation {
            limiter: Limiter::new(slots),
            server,
            random: StdRng::seed_from_u64(seed),
            now: 0,
            in_flight: 0,
            working: BinaryHeap::new(),
            waiting: VecDeque::new(),
            calls: Vec::new(),
            answered: 0,
            refused: 0,
        }
    }

    fn begin(&mut self, call: usize) {
        let (u, v): (f64, f64) = (self.random.random(), self.random.random());
        let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let company = 1.0 + self.server.company * self.working.len() as f64;
        let took = self.server.median_us * (self.server.spread * normal).exp() * company;
        self.working.push(Reverse((self.now + took as u64, call)));
    }

    fn fill(&mut self) {
        while self.in_flight < self.limiter.limit() {
            self.in_flight += 1;
            let call = self.calls.len();
            let now = Duration::from_micros(self.now);
            self.calls.push((self.now, self.limiter.on_start(self.in_flight, now)));
            if self.working.len() < self.server.slots {
                self.begin(call);
            } else if self.server.refuses {
                self.refused += 1;
                self.end(call, CallEnding::Overloaded);
            } else {
                self.waiting.push_back(call);
            }
        }
    }

    fn end(&mut self, call: usize, ending: CallEnding) {
        let (started, mark) = self.calls[call];
        let took = Duration::from_micros(self.now - started);
        self.limiter.on_end(mark, took, ending, self.in_flight, Duration::from_micros(self.now));
        self.in_flight -= 1;
    }

    /// Until so many more calls are answered; returns calls per second.
    fn answer(&mut self, calls: usize) -> f64 {
        let (began, until) = (self.now, self.answered + calls);
        self.fill();
        while self.answered < until {
            let Some(Reverse((now, call))) = self.working.pop() else { panic!("nothing is at work") };
            self.now = now;
            self.answered += 1;
            if self.working.len() < self.server.slots
                && let Some(next) = self.waiting.pop_front()
            {
                self.begin(next);
            }
            self.end(call, CallEnding::Answered);
            assert!((1..=self.limiter.slots).contains(&self.limiter.limit()));
            self.fill();
        }
        calls as f64 / ((self.now - began) as f64 / 1e6)
    }

    /// The throughput of the same server without a limiter.
    fn unlimited(slots: usize, server: Server, calls: usize) -> f64 {
        let mut simulation = Simulation::new(slots, server, 99);
        simulation.limiter.slots = slots;
        let (began, mut answered) = (0, 0);
        for _ in 0..slots {
            simulation.waiting.push_back(0);
        }
        while answered < calls {
            while simulation.working.len() < server.slots && simulation.waiting.pop_front().is_some() {
                simulation.begin(0);
            }
            let Some(Reverse((now, _))) = simulation.working.pop() else { panic!("nothing is at work") };
            simulation.now = now;
            answered += 1;
            simulation.waiting.push_back(0);
        }
        calls as f64 / ((simulation.now - began) as f64 / 1e6)
    }
}

#[test]
fn a_server_that_keeps_up_is_never_limited() {
    for slots in [1, 4, 10, 256] {
        let mut simulation = Simulation::new(slots, Server { slots, ..QUICK }, 1);
        for _ in 0..40 {
            simulation.answer(slots);
            assert_eq!(simulation.limiter.limit(), slots);
        }
    }
}

#[test]
fn a_server_with_four_slots_gets_four_or_five_calls_and_loses_no_throughput() {
    for spread in [0.0, 0.2] {
        let server = Server { slots: 4, spread, ..QUICK };
        let mut simulation = Simulation::new(10, server, 2);
        let best = Simulation::unlimited(10, server, 4000);
        let meanwhile = simulation.answer(1000);
        assert!(meanwhile > 0.95 * best, "spread {spread}: {meanwhile:.2} of {best:.2} on the way");
        let (mut limits, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            rates.push(simulation.answer(100));
            limits.push(simulation.limiter.limit());
        }
        let rate = rates.iter().sum::<f64>() / 40.0;
        assert!(rate > 0.95 * best, "spread {spread}: {rate:.2} of {best:.2}");
        let within = limits.iter().filter(|limit| (4..=5).contains(*limit)).count();
        assert!(within >= 38, "spread {spread}: {limits:?}");
    }
}

#[test]
fn honest_round_trips_of_any_kind_cost_no_throughput() {
    for (name, server) in [
        ("long and short texts", Server { spread: 0.5, ..QUICK }),
        ("very long and short texts", Server { spread: 0.9, ..QUICK }),
        ("a shared processor", Server { company: 0.05, ..QUICK }),
        ("a shared processor, texts that differ", Server { company: 0.08, spread: 0.4, ..QUICK }),
        ("a processor that is nearly full", Server { company: 0.3, ..QUICK }),
        ("a processor that is nearly full, texts that differ", Server { company: 0.3, spread: 0.3, ..QUICK }),
    ] {
        // A mean, because the texts of a single run can be longer than others by themselves.
        let best = Simulation::unlimited(10, server, 100_000);
        let rate = (0..12).map(|seed| Simulation::new(10, server, seed).answer(6000)).sum::<f64>() / 12.0;
        println!("{name}: {:.3} of the throughput without a limiter", rate / best);
        assert!(rate > 0.95 * best, "{name}: {rate:.3} of {best:.3}");
    }
}

#[test]
fn a_server_that_becomes_slower_or_smaller_or_larger_is_followed() {
    let mut simulation = Simulation::new(10, QUICK, 3);
    simulation.answer(500);
    // Longer texts: every call takes twice as long, and ten at once are still right.
    simulation.server.median_us *= 2.0;
    simulation.answer(400);
    let rate = simulation.answer(2000);
    assert!(rate > 0.95 * 10.0 / 1.774, "{rate:.2} with longer texts");
    // Another program takes most of the server.
    simulation.server.slots = 3;
    simulation.answer(2000);
    assert!((3..=4).contains(&simulation.limiter.limit()), "{}", simulation.limiter.limit());
    // It is ours again.
    simulation.server.slots = 10;
    simulation.answer(4000);
    let rate = simulation.answer(2000);
    assert!(rate > 0.95 * 10.0 / 1.774, "{rate:.2}, limit {}", simulation.limiter.limit());
}

#[test]
fn a_server_that_refuses_what_it_has_no_slot_for_is_not_pressed() {
    let server = Server { slots: 4, refuses: true, ..QUICK };
    let mut simulation = Simulation::new(10, server, 4);
    simulation.answer(500);
    let before = simulation.refused;
    let rate = simulation.answer(2000);
    assert!(rate > 0.95 * 4.0 / 0.887, "{rate:.2}");
    let refused = simulation.refused - before;
    assert!(refused < 2000 / 20, "{refused} refused");
    // It grows: one call more per round trip.
    simulation.server.slots = 10;
    simulation.answer(1000);
    assert_eq!(simulation.limiter.limit(), 10);
}

#[test]
fn a_few_failures_of_many_calls_do_not_lower_the_limit() {
    let mut limiter = Limiter::new(256);
    for n in 0..256 * 20 {
        let now = Duration::from_millis(n * 3);
        let mark = limiter.on_start(256, now);
        let ending = match n % 50 {
            0 => CallEnding::Overloaded,
            1..4 => CallEnding::Other,
            _ => CallEnding::Answered,
        };
        limiter.on_end(mark, Duration::from_millis(887), ending, 256, now);
    }
    assert_eq!(limiter.limit(), 256);
    let mut limiter = Limiter::new(1);
    for _ in 0..100 {
        let mark = limiter.on_start(1, Duration::ZERO);
        limiter.on_end(mark, Duration::from_secs(1), CallEnding::Overloaded, 1, Duration::ZERO);
    }
    assert_eq!(limiter.limit(), 1, "one call is always allowed");
}

#[test]
fn too_few_calls_to_fill_the_slots_are_no_evidence() {
    let mut limiter = Limiter::new(10);
    for n in 0..1000_u64 {
        let now = Duration::from_millis(n * 50);
        let mark = limiter.on_start(3, now);
        limiter.on_end(mark, Duration::from_millis(100 + n), CallEnding::Answered, 3, now);
    }
    assert_eq!(limiter.limit(), 10);
}

/// Servers at random; the same ones in every run.
#[test]
fn it_finds_the_slots_of_any_server() {
    let mut random = StdRng::seed_from_u64(5);
    let (cases, mut shares) = (60, Vec::new());
    for case in 0..cases {
        let (slots, real) = (random.random_range(2..40), random.random_range(1..60));
        let server = Server { slots: real, spread: random.random_range(0.0..0.4), ..QUICK };
        let best = Simulation::unlimited(slots, server, 20_000);
        let mut simulation = Simulation::new(slots, server, case);
        simulation.answer(250 * slots);
        let (mut rate, mut limits) = (0.0, Vec::new());
        for _ in 0..50 {
            rate += simulation.answer(5 * slots) / 50.0;
            limits.push(simulation.limiter.limit());
        }
        // In between, one more and one less are tried.
        limits.sort_unstable();
        let limit = limits[25];
        let what = format!("{slots} configured, {real} real, spread {:.2}: limit {limit}", server.spread);
        assert!(rate > 0.9 * best, "{what}, {rate:.2} of {best:.2}");
        let most = (real as f64 * 1.25).ceil() as usize;
        assert!(limit <= most.max(real + 1).min(slots), "{what}");
        assert!(limit * 5 >= real.min(slots) * 4, "{what}");
        shares.push(rate / best);
    }
    let mean = shares.iter().sum::<f64>() / cases as f64;
    assert!(mean > 0.98, "{mean:.3}");
}
