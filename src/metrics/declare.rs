//! What a metric is: a name, a help text, label names and a kind, declared once.
//!
//! This is the only file that uses the macros of the crate `metrics`; clippy forbids them elsewhere. A declared metric
//! asks for as many label values as it has label names, so that a label can be neither forgotten nor misspelt.

#![expect(clippy::disallowed_macros, reason = "the declared metrics are built on these macros")]

use ::metrics::{
    Label, SharedString, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Upper bounds of duration histograms, in seconds.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Upper bounds for counts of items in a batch.
const ITEMS: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];
/// Upper bounds for shares between 0 and 1.
const RATIOS: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];

/// The kind of a metric, as Prometheus names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples in buckets.
    Histogram,
}

/// One metric as it is declared.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// The name in a scrape.
    pub name: &'static str,
    /// The help text in a scrape.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The type in a scrape.
    pub kind: MetricKind,
}

/// A metric that can describe itself to the recorder.
pub(super) trait Declared: Sync {
    fn declaration(&'static self) -> Declaration;

    /// The upper bounds of a histogram.
    fn buckets(&self) -> Option<&'static [f64]> {
        None
    }

    /// Whether the recorder keeps a counter as a gauge; see [`CounterOfSeconds`].
    fn is_kept_as_gauge(&self) -> bool {
        false
    }

    fn describe(&'static self) {
        let Declaration { name, help, kind, .. } = self.declaration();
        match kind {
            MetricKind::Counter if self.is_kept_as_gauge() => describe_gauge!(name, help),
            MetricKind::Counter => describe_counter!(name, help),
            MetricKind::Gauge => describe_gauge!(name, help),
            MetricKind::Histogram => describe_histogram!(name, help),
        }
    }
}

/// The labels of one series; `N` label names take `N` values.
fn series<const N: usize>(names: &[&'static str; N], values: [SharedString; N]) -> Vec<Label> {
    names.iter().zip(values).map(|(name, value)| Label::new(*name, value)).collect()
}

/// A counter of whole numbers.
pub(super) struct Counter<const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
}

impl<const N: usize> Counter<N> {
    /// Adds `amount` to the series with these label values.
    pub fn add(&self, values: [SharedString; N], amount: u64) {
        counter!(self.name, series(&self.labels, values)).increment(amount);
    }

    /// Sets the series to a total that is counted elsewhere.
    pub fn absolute(&self, values: [SharedString; N], total: u64) {
        counter!(self.name, series(&self.labels, values)).absolute(total);
    }
}

impl<const N: usize> Declared for Counter<N> {
    fn declaration(&'static self) -> Declaration {
        Declaration { name: self.name, help: self.help, labels: &self.labels, kind: MetricKind::Counter }
    }
}

/// A counter of seconds with fractions. The recorder's counters are whole numbers, so it is kept as a gauge that only
/// grows, and a scrape says that it is a counter.
pub(super) struct CounterOfSeconds<const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
}

impl<const N: usize> CounterOfSeconds<N> {
    /// Adds a duration to the series with these label values.
    pub fn add(&self, values: [SharedString; N], duration: std::time::Duration) {
        gauge!(self.name, series(&self.labels, values)).increment(duration.as_secs_f64());
    }

    /// Sets the series to a total that is counted elsewhere.
    pub fn absolute(&self, values: [SharedString; N], total: std::time::Duration) {
        gauge!(self.name, series(&self.labels, values)).set(total.as_secs_f64());
    }
}

impl<const N: usize> Declared for CounterOfSeconds<N> {
    fn declaration(&'static self) -> Declaration {
        Declaration { name: self.name, help: self.help, labels: &self.labels, kind: MetricKind::Counter }
    }

    fn is_kept_as_gauge(&self) -> bool {
        true
    }
}

/// A number that goes up and down.
pub(super) struct Gauge<const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
}

impl<const N: usize> Gauge<N> {
    /// Sets the series with these label values.
    pub fn set(&self, values: [SharedString; N], value: f64) {
        gauge!(self.name, series(&self.labels, values)).set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, values: [SharedString; N], change: f64) {
        gauge!(self.name, series(&self.labels, values)).increment(change);
    }
}

impl<const N: usize> Declared for Gauge<N> {
    fn declaration(&'static self) -> Declaration {
        Declaration { name: self.name, help: self.help, labels: &self.labels, kind: MetricKind::Gauge }
    }
}

/// Samples in buckets; the unit at the end of the name decides which buckets.
pub(super) struct Histogram<const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
}

impl<const N: usize> Histogram<N> {
    /// Records one sample: seconds for a [`std::time::Duration`], else the number itself.
    pub fn record(&self, values: [SharedString; N], sample: impl ::metrics::IntoF64) {
        histogram!(self.name, series(&self.labels, values)).record(sample);
    }
}

impl<const N: usize> Declared for Histogram<N> {
    fn declaration(&'static self) -> Declaration {
        Declaration { name: self.name, help: self.help, labels: &self.labels, kind: MetricKind::Histogram }
    }

    fn buckets(&self) -> Option<&'static [f64]> {
        Some(match self.name.rsplit('_').next() {
            Some("seconds") => &SECONDS,
            Some("ratio") => &RATIOS,
            _ => &ITEMS,
        })
    }
}

/// Declares metrics, each once, and the list `ALL` of them.
macro_rules! metrics {
    ($($kind:ident $metric:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub(super) static $metric: $kind<{ <[&str]>::len(&[$($label),*]) }> =
                $kind { name: $name, help: $help, labels: [$($label),*] };
        )*
        /// Every metric of the service.
        pub(super) static ALL: &[&dyn Declared] = &[$(&$metric),*];
    };
}
pub(super) use metrics;
