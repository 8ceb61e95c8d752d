//! The report, in the shape that users of the guide know.

use super::llm::BenchLlm;
use super::numbers::{mean, median, ms, percentile, show_ms};
use super::round::{Result, SENTENCES};
use super::service::{Mode, Timings};
use super::verdict;
use crate::simulated_llm::Latency;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt;

/// What the Python service took for the ten sentences with a language model simulated at 887 ms, on a machine with two
/// cores, in milliseconds: one after the other, and with ten workers.
const PYTHON: [f64; 2] = [9150.0, 1040.0];
/// What the guide measured of a chunk, in milliseconds: TMD, embedding, PostgreSQL, other, total.
const GUIDE: [f64; 5] = [887.0, 50.0, 20.0, 63.0, 1020.0];

/// One request and what was measured in it.
pub struct Measured {
    pub mode: Mode,
    pub round: u32,
    pub result: Result,
}

/// Everything that was measured.
pub struct BenchReport {
    pub llm: BenchLlm,
    pub workers: usize,
    pub measured: Vec<Measured>,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.of(Mode::Sequential).count();
        let (rounds, workers) = (number(rounds, "round"), number(self.workers, "worker"));
        writeln!(f, "\nParallel ingestion: {} sentences, {rounds}, {workers}", SENTENCES.len())?;
        writeln!(f, "Language model: {}\n", self.llm)?;
        writeln!(f, "Results (medians of the rounds)\n{}", self.results())?;
        if self.is_comparable() {
            writeln!(
                f,
                "Python: the old service with the same language model, on a machine with two cores."
            )?;
        }
        writeln!(f, "\nTime of a chunk, from the entrance to the commit\n{}\n", self.spread())?;
        writeln!(f, "Where the time goes, one chunk after the other\n{}", self.stages())?;
        let apart = self.middle(Mode::Parallel, |result| ms(result.server) / result.chunks as f64);
        writeln!(f, "In parallel a chunk is finished every {} (wall time per chunk).\n", show_ms(apart))?;
        writeln!(f, "Rounds\n{}\n", self.rounds())?;
        self.summary(f)
    }
}

impl BenchReport {
    fn of(&self, mode: Mode) -> impl Iterator<Item = &Measured> {
        self.measured.iter().filter(move |measured| measured.mode == mode)
    }

    /// The median over the rounds.
    fn middle(&self, mode: Mode, what: impl Fn(&Result) -> f64) -> f64 {
        median(&self.of(mode).map(|measured| what(&measured.result)).collect::<Vec<_>>())
    }

    /// Of all chunks of all rounds.
    fn timings(&self, mode: Mode, what: impl Fn(&Timings) -> f64) -> Vec<f64> {
        self.of(mode).flat_map(|measured| measured.result.timings.iter().map(&what)).collect()
    }

    /// Of a call: as it was set, else as it was measured one call after the other.
    fn latency_ms(&self) -> f64 {
        let measured = || median(&self.timings(Mode::Sequential, |timings| timings.tmd_ms));
        self.llm.latency().map_or_else(measured, |latency| ms(latency.median()))
    }

    /// Whether the measurements of the Python service were made in the same way.
    fn is_comparable(&self) -> bool {
        let at_once = self.llm.at_once(self.workers);
        matches!(self.llm.latency(), Some(Latency::Constant(_)))
            && verdict::is_the_guides(SENTENCES.len(), at_once, self.latency_ms())
    }

    fn results(&self) -> Table {
        let mut table = table();
        let mut header = vec!["", "Sequential", "Parallel"];
        if self.is_comparable() {
            header.extend(["Python, seq.", "Python, par."]);
        }
        table.set_header(header);
        let client = |mode| self.middle(mode, |result| ms(result.client));
        let both = |what: &dyn Fn(&Result) -> f64, show: &dyn Fn(f64) -> String| {
            Mode::BOTH.map(|mode| show(self.middle(mode, what)))
        };
        let count = |number: f64| format!("{number:.0}");
        let mut row = |name: &str, ours: [String; 2], python: Option<&dyn Fn(f64) -> String>| {
            let mut cells = vec![name.to_owned()];
            cells.extend(ours);
            if self.is_comparable() {
                cells.extend(PYTHON.map(|time| python.map_or_else(String::new, |show| show(time))));
            }
            table.add_row(cells);
        };
        row("Total chunks", both(&|result| result.chunks as f64, &count), None);
        row("Successful", both(&|result| result.successful as f64, &count), None);
        row("Failed", both(&|result| result.failed as f64, &count), None);
        row("LLM calls", both(&|result| result.calls as f64, &count), None);
        row("Server time", both(&|result| ms(result.server), &show_ms), None);
        row("Client time", Mode::BOTH.map(|mode| show_ms(client(mode))), Some(&show_ms));
        let per_chunk = |time: f64| show_ms(time / SENTENCES.len() as f64);
        row("Per chunk", Mode::BOTH.map(|mode| per_chunk(client(mode))), Some(&per_chunk));
        let throughput = |time: f64| format!("{:.2} chunks/s", SENTENCES.len() as f64 / time.max(1e-9) * 1e3);
        row("Throughput", Mode::BOTH.map(|mode| throughput(client(mode))), Some(&throughput));
        right(table, 1)
    }

    fn spread(&self) -> Table {
        let mut table = table();
        table.set_header(["", "p50", "p95", "p99"]);
        for mode in Mode::BOTH {
            let times = self.timings(mode, |timings| timings.total_ms);
            let at = |percent| show_ms(percentile(&times, percent));
            table.add_row([capital(mode), at(50.0), at(95.0), at(99.0)]);
        }
        right(table, 1)
    }

    /// The total is what a chunk really took of the request: of the chunk's own total most is waiting for the others.
    fn stages(&self) -> Table {
        let average = |what: fn(&Timings) -> f64| mean(&self.timings(Mode::Sequential, what));
        let (tmd, embedding, postgres) =
            (average(|t| t.tmd_ms), average(|t| t.embedding_ms), average(|t| t.postgres_ms));
        let walls: Vec<f64> =
            self.of(Mode::Sequential).map(|m| ms(m.result.server) / m.result.chunks as f64).collect();
        let total = mean(&walls);
        let times = [tmd, embedding, postgres, total - tmd - embedding - postgres, total];
        let names = ["TMD (language model)", "Embedding", "PostgreSQL", "Other", "Total"];
        let share = |time: f64, total: f64| format!("{:.1} %", 100.0 * time / total.max(1e-9));

        let mut table = table();
        let mut header = vec!["", "Time", "Share"];
        if self.is_comparable() {
            header.extend(["Python (guide)", "Share"]);
        }
        table.set_header(header);
        for ((name, time), guide) in names.into_iter().zip(times).zip(GUIDE) {
            let mut cells = vec![name.to_owned(), show_ms(time), share(time, total)];
            if self.is_comparable() {
                cells.extend([show_ms(guide), share(guide, GUIDE[4])]);
            }
            table.add_row(cells);
        }
        right(table, 1)
    }

    fn rounds(&self) -> Table {
        let mut table = table();
        table.set_header(["Round", "Service", "Chunks", "LLM calls", "Server time", "Client time"]);
        for Measured { mode, round, result } in &self.measured {
            table.add_row([
                round.to_string(),
                mode.to_string(),
                result.chunks.to_string(),
                result.calls.to_string(),
                show_ms(ms(result.server)),
                show_ms(ms(result.client)),
            ]);
        }
        right(table, 2)
    }

    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected =
            verdict::expectation(SENTENCES.len(), self.llm.at_once(self.workers), self.latency_ms());
        writeln!(f, "SUMMARY")?;
        for (mode, span) in [(Mode::Sequential, expected.sequential), (Mode::Parallel, expected.parallel)] {
            let seconds = self.middle(mode, |result| result.client.as_secs_f64());
            let verdict = verdict::compare(seconds, span);
            writeln!(
                f,
                "  {:<11} {seconds:>6.2} s   expected {:<11} {verdict}",
                capital(mode),
                span.to_string()
            )?;
        }
        let time = |mode| self.middle(mode, |result| ms(result.client));
        let speed_up = time(Mode::Sequential) / time(Mode::Parallel).max(1e-9);
        writeln!(
            f,
            "  Speed-up    {speed_up:>6.1} times\n\n{}",
            verdict::sentence(speed_up, expected.speed_up)
        )
    }
}

fn number(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn capital(mode: Mode) -> String {
    match mode {
        Mode::Sequential => "Sequential".to_owned(),
        Mode::Parallel => "Parallel".to_owned(),
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table
}

/// Numbers stand on the right of their columns; the first ones are text.
fn right(mut table: Table, texts: usize) -> Table {
    table.column_iter_mut().skip(texts).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(llm: &str, latency: f64) -> BenchReport {
        let mut measured = Vec::new();
        for round in 1..=3 {
            for (mode, turns) in [(Mode::Sequential, 10.0), (Mode::Parallel, 1.0)] {
                let time = |extra: f64| Duration::from_secs_f64((turns * (latency + 15.0) + extra) / 1e3);
                let timings = (0..10)
                    .map(|n| Timings {
                        tmd_ms: latency,
                        embedding_ms: 8.0,
                        postgres_ms: 5.0,
                        total_ms: f64::from(n) * 100.0,
                    })
                    .collect();
                let result = Result {
                    chunks: 10,
                    successful: 10,
                    failed: 0,
                    calls: 10,
                    server: time(0.0),
                    client: time(f64::from(round)),
                    timings,
                };
                measured.push(Measured { mode, round, result });
            }
        }
        BenchReport { llm: llm.parse().unwrap(), workers: 10, measured }
    }

    fn has_row(text: &str, cells: &[&str]) {
        let fits = |line: &str| {
            let found: Vec<&str> =
                line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect();
            found == cells
        };
        assert!(text.lines().any(fits), "{cells:?} is not a row of:\n{text}");
    }

    #[test]
    fn the_guides_measurement_stands_beside_pythons() {
        let text = report("simulated:887ms", 887.0).to_string();
        has_row(&text, &["Total chunks", "10", "10"]);
        has_row(&text, &["Failed", "0", "0"]);
        has_row(&text, &["Server time", "9,020.0 ms", "902.0 ms"]);
        has_row(&text, &["Client time", "9,022.0 ms", "904.0 ms", "9,150.0 ms", "1,040.0 ms"]);
        has_row(&text, &["Throughput", "1.11 chunks/s", "11.06 chunks/s", "1.09 chunks/s", "9.62 chunks/s"]);
        has_row(&text, &["TMD (language model)", "887.0 ms", "98.3 %", "887.0 ms", "87.0 %"]);
        has_row(&text, &["Other", "2.0 ms", "0.2 %", "63.0 ms", "6.2 %"]);
        has_row(&text, &["Sequential", "400.0 ms", "900.0 ms", "900.0 ms"]);
        has_row(&text, &["3", "parallel", "10", "10", "902.0 ms", "905.0 ms"]);
        assert!(text.contains("Sequential    9.02 s   expected 10-12 s     faster than expected"), "{text}");
        assert!(text.contains("Parallel      0.90 s   expected 1-2 s       faster than expected"), "{text}");
        assert!(text.contains("✅ Parallel processing works: 10.0 times as fast, of 10.0"), "{text}");
        assert!(text.contains("finished every 90.2 ms"), "{text}");
    }

    #[test]
    fn other_models_have_expectations_of_their_own() {
        let text = report("simulated:20ms,5", 20.0).to_string();
        assert!(!text.contains("Python") && text.contains("simulated, 20ms a call, 5 slots"), "{text}");
        assert!(text.contains("expected 0.20-0.25 s") && text.contains("expected 0.04-0.05 s"), "{text}");
        let text = report("configured", 400.0).to_string();
        assert!(!text.contains("Python") && text.contains("expected 4-5 s"), "{text}");
    }
}
