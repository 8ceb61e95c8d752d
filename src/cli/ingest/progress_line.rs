//! What is shown meanwhile: a bar with rate and time to go on a terminal, a plain line now and then otherwise.

use super::ledger::UploadTally;
use crate::output::{escape, print_error_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// The time between two lines of progress without a terminal.
const PLAIN_PACE: Duration = Duration::from_secs(5);

/// The progress of one file.
pub struct ProgressLine {
    bar: ProgressBar,
    plain: bool,
    name: String,
    chunks: Option<u64>,
    /// Settled by earlier runs.
    before: u64,
    started: Instant,
    said: Instant,
}

impl ProgressLine {
    /// Of a file of so many chunks, where that is known.
    pub fn new(path: &Path, chunks: Option<u64>) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(chunks, target);
        let shape = match chunks {
            Some(_) => "{msg} [{wide_bar}] {pos}/{len} chunks, {rate} chunks/s, {eta} to go",
            None => "{msg} {pos} chunks, {rate} chunks/s",
        };
        if let Ok(style) = ProgressStyle::with_template(shape) {
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // Only a full line could refuse it, and a bar without its rate is still a bar.
                let _shown: std::fmt::Result = write!(out, "{:.0}", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        }
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        bar.set_message(escape(&name));
        let now = Instant::now();
        ProgressLine { bar, plain, name, chunks, before: 0, started: now, said: now }
    }

    /// So many chunks were settled before this run, and say nothing about its speed.
    pub fn begin_at(&mut self, settled: u64) {
        self.before = settled;
        self.bar.set_position(settled);
        self.bar.reset_eta();
        self.started = Instant::now();
    }

    /// How long this run has taken, and the chunks a second it settled.
    pub fn pace(&self, tally: UploadTally) -> (Duration, f64) {
        let took = self.started.elapsed();
        (took, tally.settled().saturating_sub(self.before) as f64 / took.as_secs_f64().max(1e-9))
    }

    /// Updates the progress.
    pub fn show(&mut self, tally: UploadTally) {
        self.bar.set_position(tally.settled());
        if self.plain && self.said.elapsed() >= PLAIN_PACE {
            self.said = Instant::now();
            let of = self.chunks.map(|chunks| format!(" of {chunks}")).unwrap_or_default();
            let (settled, rate) = (tally.settled(), self.pace(tally).1);
            print_error_line(format!("{}: {settled}{of} chunks, {rate:.0} chunks/s", self.name));
        }
    }

    /// Says something about the file.
    pub fn say(&self, sentence: &str) {
        self.bar.suspend(|| print_error_line(format!("{} {sentence}", self.name)));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
