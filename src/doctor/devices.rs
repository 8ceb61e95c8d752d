//! The table of devices: each with each number format, how fast it is, and which one the service would take.

use crate::encoder::{Comparison, Device, DtypeChoice, Trial};
use serde::Serialize;

/// A device in a number format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceRow {
    /// As `LNSP_DEVICE` names it.
    pub device: String,
    /// As `LNSP_DTYPE` names it.
    pub dtype: String,
    /// Short paragraphs in a second, of the whole device.
    pub texts_per_s: Option<f64>,
    /// Its encoders, on how many threads each.
    pub crew: Option<String>,
    /// The matrix product that was the faster one.
    pub linear: Option<String>,
    /// Tokens of a pass, padding included.
    pub pass_tokens: Option<usize>,
    /// Why it could not be measured.
    pub problem: Option<String>,
    /// The service takes this one.
    pub chosen: bool,
}

/// The service takes the fastest among the devices and formats that it is allowed.
pub fn rows(comparison: &Comparison, allowed: &[Device], dtype: DtypeChoice) -> Vec<DeviceRow> {
    let may = |trial: &Trial| {
        allowed.contains(&trial.device) && (dtype == DtypeChoice::Auto || dtype == trial.dtype)
    };
    let chosen = comparison.fastest(may);
    let each = comparison.trials.iter().enumerate();
    each.map(|(position, trial)| row(trial, chosen == Some(position))).collect()
}

fn row(trial: &Trial, chosen: bool) -> DeviceRow {
    let rate = trial.outcome.as_ref().ok();
    DeviceRow {
        device: trial.device.to_string(),
        dtype: trial.dtype.to_string(),
        texts_per_s: rate.map(|rate| rate.texts_per_s),
        crew: rate.map(|rate| rate.parallelism.to_string()),
        linear: rate.map(|rate| rate.tuning.linear.to_string()),
        pass_tokens: rate.map(|rate| rate.tuning.budget.tokens),
        problem: trial.outcome.as_ref().err().map(ToString::to_string),
        chosen,
    }
}
