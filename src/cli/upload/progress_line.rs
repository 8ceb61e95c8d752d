//! What is shown meanwhile: a bar with rate and time to go on a terminal, a plain line now and then otherwise.

use super::ledger::UploadTally;
use super::recent_rate::{RecentRate, in_words};
use crate::output::{escape, print_error_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The time between two lines of progress without a terminal.
const PLAIN_PACE: Duration = Duration::from_secs(5);
/// The most characters of a name in front of the bar.
const NAME: usize = 16;

/// How many chunks a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkCount {
    /// It was read to its end.
    Exact(u64),
    /// By the part that was read.
    About(u64),
    /// Neither its end nor its size is known.
    Unknown,
}

/// The progress of one source.
pub struct ProgressLine {
    bar: ProgressBar,
    plain: bool,
    name: String,
    rate: RecentRate,
    started: Instant,
    said: Instant,
}

impl ProgressLine {
    /// Of a source with this name.
    pub fn new(name: &str) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(shortened(&escape(name)));
        let now = Instant::now();
        ProgressLine {
            // Before the first call that draws.
            bar: bar.with_style(style("{prefix} {msg}")),
            plain,
            name: name.to_owned(),
            rate: RecentRate::default(),
            started: now,
            said: now,
        }
    }

    /// How long it has taken, and the chunks a second that were settled.
    pub fn pace(&self, tally: UploadTally) -> (Duration, f64) {
        let took = self.started.elapsed();
        (took, tally.settled() as f64 / took.as_secs_f64().max(1e-9))
    }

    /// Updates the progress. `limited_by` is what limits the rate, if that is known.
    pub fn show(&mut self, tally: UploadTally, count: ChunkCount, limited_by: Option<&str>) {
        let (now, settled) = (Instant::now(), tally.settled());
        self.rate.observe(now, settled);
        let due = now.saturating_duration_since(self.said) >= PLAIN_PACE;
        if self.plain && !due {
            return;
        }
        let words = self.words(settled, count, limited_by);
        if self.plain {
            self.said = now;
            print_error_line(format!("{}: {words}", self.name));
            return;
        }
        if let ChunkCount::Exact(chunks) | ChunkCount::About(chunks) = count {
            if self.bar.length().is_none() {
                self.bar.set_style(style("{prefix} [{wide_bar}] {msg}"));
            }
            self.bar.set_length(chunks.max(settled));
        }
        self.bar.set_position(settled);
        self.bar.set_message(escape(&words));
    }

    fn words(&self, settled: u64, count: ChunkCount, limited_by: Option<&str>) -> String {
        let rate = self.rate.per_second();
        let (of, left) = match count {
            ChunkCount::Exact(chunks) => (format!(" of {chunks}"), chunks.saturating_sub(settled)),
            ChunkCount::About(chunks) => (format!(" of about {chunks}"), chunks.saturating_sub(settled)),
            ChunkCount::Unknown => (String::new(), 0),
        };
        let mut words = format!("{settled}{of} chunks");
        // Not known before some time has passed.
        if rate > 0.0 {
            words = format!("{words}, {rate:.0}/s");
        }
        if left > 0
            && let Some(time) = self.rate.time_for(left)
        {
            words = format!("{words}, {} to go", in_words(time));
        }
        if let Some(limit) = limited_by {
            words = format!("{words}, limited by {limit}");
        }
        words
    }

    /// Says something about the source.
    pub fn say(&self, sentence: &str) {
        self.bar.suspend(|| print_error_line(format!("{} {sentence}", self.name)));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

/// The end of a long name, which says more than its beginning.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - (NAME - 2)).collect();
    format!("..{end}")
}
