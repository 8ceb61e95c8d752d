//! The driver: round after round, a line for each, and a table at the end.

use crate::fault::Fault;
use crate::payload::dice;
use crate::proof;
use crate::round::{self, Plan};
use crate::round_state::RoundReport;
use rand::RngExt;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The name under which a filter finds us.
const NAME: &str = "torture";
/// A round in which nothing struck is played again this often at most.
const TRIES: u64 = 5;

/// What was asked for.
struct Wanted {
    rounds: u64,
    seed: u64,
    /// Of one round, whose fault is then named too.
    round: Option<u64>,
    fault: Option<Fault>,
    filtered_out: bool,
    list: bool,
}

impl Wanted {
    /// Ours, and those of libtest that matter here; its others are accepted and change nothing.
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let seed = rand::rng().random_range(0..1_000_000_000);
        let mut wanted =
            Wanted { rounds: 20, seed, round: None, fault: None, filtered_out: false, list: false };
        let mut filters = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, mut value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || value.take().or_else(|| arguments.next().cloned()).unwrap_or_default();
            let number =
                |text: String| text.parse().map_err(|_| format!("{name} needs a number, not '{text}'"));
            match name {
                "--rounds" => wanted.rounds = number(value())?,
                "--seed" => wanted.seed = number(value())?,
                "--round" => wanted.round = Some(number(value())?),
                "--fault" => wanted.fault = Some(fault(&value())?),
                "--list" => wanted.list = true,
                "--ignored" => wanted.filtered_out = true,
                "--skip" => wanted.filtered_out |= NAME.contains(&value()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "--report-time" | "-Z" => {
                    drop(value());
                }
                flag if flag.starts_with('-') => {}
                filter => filters.push(filter.to_owned()),
            }
        }
        wanted.filtered_out |=
            !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str()));
        match wanted.round {
            Some(_) if wanted.fault.is_none() => Err("--round needs --fault too".to_owned()),
            Some(_) => Ok(Wanted { rounds: 1, ..wanted }),
            None => Ok(wanted),
        }
    }

    fn fault(&self, number: u64) -> Fault {
        self.fault.unwrap_or(Fault::ALL[number as usize % Fault::ALL.len()])
    }

    /// What is played as this round, in this of its attempts. A round that is named has no other attempt.
    fn plan(&self, number: u64, attempt: u64) -> Option<Plan> {
        let drawn = || dice(self.seed, "round", number * 1_000 + attempt).random();
        let fault = self.fault(number);
        match self.round {
            Some(seed) => (attempt == 0).then(|| Plan::new(seed, fault)),
            None => (attempt < TRIES).then(|| Plan::new(drawn(), fault)),
        }
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.map(Fault::name).join(", ");
    Fault::ALL
        .into_iter()
        .find(|fault| fault.name() == name)
        .ok_or_else(|| format!("--fault is one of {}", names()))
}

/// Plays what the arguments ask for.
pub fn run(arguments: &[String]) -> ExitCode {
    let wanted = match Wanted::read(arguments) {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if wanted.list {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    if wanted.filtered_out {
        println!("\nrunning 0 tests\n");
        close([0, 0, 0, wanted.rounds as usize], Duration::ZERO);
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    println!("\nrunning {} rounds of torture, seed {}", wanted.rounds, wanted.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let missed = runtime.block_on(proof::run(wanted.seed));
    missed.iter().for_each(|what| println!("  FAILED: the judge does not find what is broken: {what}"));
    if missed.is_empty() {
        println!("proved: whatever is broken on purpose, in rows, index, ledger or answers, is found");
    }
    let (mut total, mut passed, mut skipped) = (Total::default(), usize::from(missed.is_empty()), 0);
    let mut failed = usize::from(!missed.is_empty());
    for number in 0..wanted.rounds {
        match runtime.block_on(play(&wanted, number, &mut total)) {
            Verdict::Passed => passed += 1,
            Verdict::Failed => failed += 1,
            Verdict::Skipped => skipped += 1,
        }
    }
    total.print();
    close([passed, failed, skipped, 0], started.elapsed());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// As cargo's own tests end.
fn close([passed, failed, skipped, filtered_out]: [usize; 4], took: Duration) {
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {filtered_out} filtered \
         out; finished in {:.2}s\n",
        took.as_secs_f64()
    );
}

/// How a round ended.
enum Verdict {
    Passed,
    Failed,
    /// This machine does not let us strike so.
    Skipped,
}

/// One round, again while nothing struck.
async fn play(wanted: &Wanted, number: u64, total: &mut Total) -> Verdict {
    let mut attempts = 0;
    while let Some(plan) = wanted.plan(number, attempts) {
        let Plan { seed, fault, .. } = plan;
        let started = Instant::now();
        // In a task, so that a panic of ours does not end the other rounds, and is reported with the seed.
        let round_report = match tokio::spawn(round::run(plan)).await {
            Ok(Some(round_report)) => round_report,
            Ok(None) => {
                println!(
                    "round {number:>3} {:<18} skipped: mounting a small disk is not allowed here",
                    fault.name()
                );
                return Verdict::Skipped;
            }
            Err(panicked) => RoundReport::of_failure(panicked.to_string()),
        };
        report(number, fault, &round_report, started.elapsed());
        total.add(&round_report);
        if !round_report.failures.is_empty() {
            round_report.failures.iter().take(5).for_each(|failure| println!("  FAILED: {failure}"));
            println!("  repeat it: cargo test --test torture -- --fault {} --round {seed}", fault.name());
            return Verdict::Failed;
        }
        if round_report.struck.contains_key(fault.name()) {
            total.repeated += attempts;
            return Verdict::Passed;
        }
        println!("  {} did not strike (--round {seed})", fault.name());
        attempts += 1;
    }
    total.repeated += attempts - 1;
    println!(
        "  FAILED: {} struck in none of its {attempts} rounds, seed {}",
        wanted.fault(number).name(),
        wanted.seed
    );
    Verdict::Failed
}

fn report(number: u64, fault: Fault, round_report: &RoundReport, took: Duration) {
    let count = |what: &str| round_report.counts.get(what).copied().unwrap_or_default();
    let struck: Vec<String> =
        round_report.struck.iter().map(|(name, times)| format!("{name} {times}")).collect();
    println!(
        "round {number:>3} {:<18} {:>5} issued, {:>5} stored, {:>5} duplicate, {:>4} again, {:>3} cut, {} judged, {:>4.1} s; struck: {}",
        fault.name(),
        count("issued"),
        count("stored"),
        count("duplicate"),
        count("sent again"),
        count("uploads cut"),
        count("judged"),
        took.as_secs_f64(),
        if struck.is_empty() { "none".to_owned() } else { struck.join(", ") },
    );
}

/// The figures of all rounds together.
#[derive(Default)]
struct Total {
    struck: BTreeMap<String, u64>,
    counts: BTreeMap<&'static str, u64>,
    ready: Duration,
    back: BTreeMap<&'static str, Duration>,
    repeated: u64,
}

impl Total {
    fn add(&mut self, round_report: &RoundReport) {
        for (name, times) in &round_report.struck {
            *self.struck.entry(name.clone()).or_default() += times;
        }
        for (name, times) in &round_report.counts {
            *self.counts.entry(name).or_default() += times;
        }
        self.ready = round_report.ready.iter().copied().fold(self.ready, Duration::max);
        for (fault, took) in &round_report.back {
            let longest = self.back.entry(fault).or_default();
            *longest = (*longest).max(*took);
        }
    }

    fn print(&self) {
        println!("\n  struck");
        self.struck.iter().for_each(|(name, times)| println!("    {name:<22} {times:>7}"));
        println!("  counted");
        self.counts.iter().for_each(|(name, times)| println!("    {name:<22} {times:>7}"));
        println!("    {:<22} {:>7}", "rounds repeated", self.repeated);
        println!("  longest from start to ready: {:.2} s", self.ready.as_secs_f64());
        println!("  longest from the end of a fault to the next acknowledged chunk");
        self.back.iter().for_each(|(name, took)| println!("    {name:<22} {:>5.2} s", took.as_secs_f64()));
    }
}
