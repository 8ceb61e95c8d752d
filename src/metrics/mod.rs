//! Every metric of the service, declared once in [`names`], and the functions that record them. A leaf: it imports no
//! other room.
//!
//! Times are recorded per batch where there is a batch.

mod declare;
mod embedding;
mod http;
mod llm;
mod names;
mod pipeline;
mod store;

pub use declare::{Declaration, MetricKind};
pub use embedding::*;
pub use http::*;
pub use llm::*;
pub use pipeline::*;
pub use store::*;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// How often samples are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, once per process; later calls do nothing. Call it before the first metric is recorded.
///
/// A histogram keeps every sample, some 120 bytes a chunk, until a scrape or the upkeep folds them into buckets. So the
/// recorder comes with a thread that does the upkeep.
pub fn install() {
    handle();
}

/// All metrics in the text format of Prometheus. `None` when this process has installed another recorder.
pub fn render() -> Option<String> {
    let text = handle()?.render();
    let kept_as_gauges = names::ALL.iter().filter(|metric| metric.is_kept_as_gauge());
    Some(kept_as_gauges.fold(text, |text, metric| {
        let name = metric.declaration().name;
        text.replace(&format!("# TYPE {name} gauge\n"), &format!("# TYPE {name} counter\n"))
    }))
}

/// Every metric that the service declares, in the order of the declarations.
pub fn declarations() -> impl Iterator<Item = Declaration> {
    names::ALL.iter().map(|metric| metric.declaration())
}

fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE.get_or_init(start_recorder).as_ref()
}

fn start_recorder() -> Option<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for metric in names::ALL {
        let metric = metric.declaration();
        if let Some(bounds) = metric.buckets() {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds).ok()?;
        }
    }
    let handle = builder.install_recorder().ok()?;
    names::ALL.iter().for_each(|metric| metric.describe());
    let folded = handle.clone();
    let upkeep = move || loop {
        thread::sleep(UPKEEP);
        folded.run_upkeep();
    };
    thread::Builder::new().name("lnsp-metrics".to_owned()).spawn(upkeep).ok()?;
    Some(handle)
}

/// Records what runs: the model, the device and the version of the service.
pub fn build_info(model: &str, device: &str) {
    let version = env!("CARGO_PKG_VERSION");
    names::BUILD_INFO.set([version.into(), model.to_owned().into(), device.to_owned().into()], 1.0);
}

/// Records that this model and device are no longer what runs.
pub fn build_info_before(model: &str, device: &str) {
    let version = env!("CARGO_PKG_VERSION");
    names::BUILD_INFO.set([version.into(), model.to_owned().into(), device.to_owned().into()], 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_declared_once_and_says_its_kind_and_unit() {
        let names: BTreeSet<_> = declarations().map(|metric| metric.name).collect();
        assert_eq!(names.len(), declarations().count(), "a name is declared twice");
        for Declaration { name, help, labels, kind } in declarations() {
            assert!(name.starts_with("lnsp_") && !help.is_empty(), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                kind == MetricKind::Counter,
                "{name}: _total is for counters"
            );
            assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len(), "{name}: {labels:?}");
            let unit = name.rsplit('_').next().unwrap();
            let known = ["seconds", "ratio", "rows", "size", "tokens"].contains(&unit);
            assert!(known || kind != MetricKind::Histogram, "{name} ends with no unit");
        }
    }
}
