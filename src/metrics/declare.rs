//! What a metric is: a name, a help text, label names and a kind, declared once.
//!
//! This is the only file that uses the macros of the crate `metrics`; clippy forbids them elsewhere. A declared metric
//! asks for as many label values as it has label names, so that a label can be neither forgotten nor misspelt.

#![expect(clippy::disallowed_macros, reason = "the declared metrics are built on these macros")]

use ::metrics::{
    IntoF64, Label, SharedString, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use std::time::Duration;

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
    /// A number that only grows.
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

/// What sets one kind of metric apart from the others.
pub(super) trait MetricClass: Sync {
    const KIND: MetricKind;
    /// The recorder keeps it as a gauge; see [`CounterOfSeconds`].
    const KEPT_AS_GAUGE: bool = false;
}

/// A metric with `N` labels, declared in [`names`](super::names). Each series takes `N` label values.
pub(super) struct Metric<K, const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
    pub _kind: K,
}

/// A counter of whole numbers.
pub(super) struct Counter;

/// A counter of seconds with fractions. The recorder's counters are whole numbers, so it is kept as a gauge that only
/// grows, and a scrape says that it is a counter.
pub(super) struct CounterOfSeconds;

/// A number that goes up and down.
pub(super) struct Gauge;

/// Samples in buckets. The unit at the end of the name decides which buckets.
pub(super) struct Histogram;

impl MetricClass for Counter {
    const KIND: MetricKind = MetricKind::Counter;
}

impl MetricClass for CounterOfSeconds {
    const KIND: MetricKind = MetricKind::Counter;
    const KEPT_AS_GAUGE: bool = true;
}

impl MetricClass for Gauge {
    const KIND: MetricKind = MetricKind::Gauge;
}

impl MetricClass for Histogram {
    const KIND: MetricKind = MetricKind::Histogram;
}

impl<K, const N: usize> Metric<K, N> {
    fn series(&self, values: [SharedString; N]) -> Vec<Label> {
        self.labels.iter().zip(values).map(|(name, value)| Label::new(*name, value)).collect()
    }
}

impl<const N: usize> Metric<Counter, N> {
    pub fn add(&self, values: [SharedString; N], amount: u64) {
        counter!(self.name, self.series(values)).increment(amount);
    }

    /// Sets the series to a total that is counted elsewhere.
    pub fn absolute(&self, values: [SharedString; N], total: u64) {
        counter!(self.name, self.series(values)).absolute(total);
    }
}

impl<const N: usize> Metric<CounterOfSeconds, N> {
    pub fn add(&self, values: [SharedString; N], duration: Duration) {
        gauge!(self.name, self.series(values)).increment(duration.as_secs_f64());
    }

    /// Sets the series to a total that is counted elsewhere.
    pub fn absolute(&self, values: [SharedString; N], total: Duration) {
        gauge!(self.name, self.series(values)).set(total.as_secs_f64());
    }
}

impl<const N: usize> Metric<Gauge, N> {
    pub fn set(&self, values: [SharedString; N], value: f64) {
        gauge!(self.name, self.series(values)).set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, values: [SharedString; N], change: f64) {
        gauge!(self.name, self.series(values)).increment(change);
    }
}

impl<const N: usize> Metric<Histogram, N> {
    /// Records one sample: seconds for a [`Duration`], else the number itself.
    pub fn record(&self, values: [SharedString; N], sample: impl IntoF64) {
        histogram!(self.name, self.series(values)).record(sample);
    }
}

/// A declared metric of any kind and any number of labels.
pub(super) trait Declared: Sync {
    fn declaration(&'static self) -> Declaration;

    fn is_kept_as_gauge(&self) -> bool;

    /// Tells the recorder the kind and the help text.
    fn describe(&'static self) {
        let Declaration { name, help, kind, .. } = self.declaration();
        match kind {
            MetricKind::Counter if !self.is_kept_as_gauge() => describe_counter!(name, help),
            MetricKind::Counter | MetricKind::Gauge => describe_gauge!(name, help),
            MetricKind::Histogram => describe_histogram!(name, help),
        }
    }
}

impl<K: MetricClass, const N: usize> Declared for Metric<K, N> {
    fn declaration(&'static self) -> Declaration {
        Declaration { name: self.name, help: self.help, labels: &self.labels, kind: K::KIND }
    }

    fn is_kept_as_gauge(&self) -> bool {
        K::KEPT_AS_GAUGE
    }
}

impl Declaration {
    /// The upper bounds of a histogram's buckets, by the unit at the end of its name.
    pub(super) fn buckets(&self) -> Option<&'static [f64]> {
        (self.kind == MetricKind::Histogram).then(|| match self.name.rsplit('_').next() {
            Some("seconds") => &SECONDS[..],
            Some("ratio") => &RATIOS,
            _ => &ITEMS,
        })
    }
}

/// Declares metrics, each once, and the list `ALL` of them.
macro_rules! metrics {
    ($($kind:ident $metric:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub(super) static $metric: Metric<$kind, { <[&str]>::len(&[$($label),*]) }> =
                Metric { name: $name, help: $help, labels: [$($label),*], _kind: $kind };
        )*
        pub(super) static ALL: &[&dyn Declared] = &[$(&$metric),*];
    };
}
pub(super) use metrics;
