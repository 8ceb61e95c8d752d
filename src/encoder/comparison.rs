//! Compares the devices of this machine with one model.
//!
//! The measure is texts per second of the whole device: all encoders of a CPU work in parallel, and the one encoder of
//! a GPU. A device that fails is listed with the error and is not selected.

use super::calibrate::{Tuning, trial};
use super::device::{Device, Dtype, DtypeChoice};
use super::error::EncodeError;
use super::parallelism::Parallelism;
use super::port::Encoder;
use super::tch_encoder::{EncoderOptions, TchEncoder, load};
use super::tokens::Tokens;
use crate::threads::lock;
use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// The duration of measuring all encoders of a device in parallel.
const MEASUREMENT: Duration = Duration::from_millis(500);

/// The throughput of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The number of encoders and their threads.
    pub parallelism: Parallelism,
    /// The fastest of the allowed ways to compute.
    pub tuning: Tuning,
    /// Texts of about 56 tokens per second, all encoders together.
    pub texts_per_s: f64,
}

/// The measurement of one device with one choice of number format.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The measured device.
    pub device: Device,
    /// The number formats that were allowed.
    pub dtype: DtypeChoice,
    /// The throughput, or why the device cannot be used.
    pub outcome: Result<Rate, EncodeError>,
}

/// The measurements of all devices.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// In the order of measuring.
    pub trials: Vec<Trial>,
}

/// The selected device.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The only device, or the fastest one.
    pub device: Device,
    /// The fastest way to compute on it; `None` when there was only one device, which is not measured.
    pub tuning: Option<Tuning>,
    /// The measurements; empty when there was only one device.
    pub comparison: Comparison,
}

impl Comparison {
    /// Measures the candidates one after the other, because all of them use the CPU.
    pub fn measure(
        candidates: impl IntoIterator<Item = (Device, DtypeChoice)>,
        mut rate: impl FnMut(Device, DtypeChoice) -> Result<Rate, EncodeError>,
    ) -> Comparison {
        let trials = candidates.into_iter().map(|(device, dtype)| {
            let outcome = rate(device, dtype);
            Trial { device, dtype, outcome }
        });
        Comparison { trials: trials.collect() }
    }

    /// The index of the fastest successful trial that `may_be_taken` accepts; the first one among equals.
    pub fn fastest(&self, may_be_taken: impl Fn(&Trial) -> bool) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for (position, trial) in self.trials.iter().enumerate() {
            if let Ok(rate) = &trial.outcome
                && may_be_taken(trial)
                && best.is_none_or(|(_, fastest)| rate.texts_per_s > fastest)
            {
                best = Some((position, rate.texts_per_s));
            }
        }
        best.map(|(position, _)| position)
    }
}

/// Selects the only device without measuring it, or measures several and selects the fastest.
///
/// # Errors
/// The error of the first device, if all fail.
pub fn settle(
    devices: &[Device],
    dtype: DtypeChoice,
    rate: impl FnMut(Device, DtypeChoice) -> Result<Rate, EncodeError>,
) -> Result<Settled, EncodeError> {
    if let &[device] = devices {
        return Ok(Settled { device, tuning: None, comparison: Comparison::default() });
    }
    let comparison = Comparison::measure(devices.iter().map(|&device| (device, dtype)), rate);
    let fastest = comparison.fastest(|_| true).map(|position| &comparison.trials[position]);
    if let Some(&Trial { device, outcome: Ok(rate), .. }) = fastest {
        return Ok(Settled { device, tuning: Some(rate.tuning), comparison });
    }
    let reason = comparison.trials.into_iter().find_map(|trial| trial.outcome.err());
    let none = || EncodeError::Torch { doing: "looking for a device", reason: "there is none".to_owned() };
    Err(reason.unwrap_or_else(none))
}

/// Measures the device of `options` with their model. `options.threads` and `options.tuning` are ignored.
///
/// # Errors
/// The errors of [`load`] and of a pass.
pub fn rate(options: &EncoderOptions) -> Result<Rate, EncodeError> {
    let parallelism = Parallelism::on(options.device);
    let options = EncoderOptions { threads: Some(parallelism.threads), tuning: None, ..options.clone() };
    let measure = || {
        let (first, calibration) = load(&options)?;
        let tuning = calibration.tuning;
        let mut batch = trial(tuning.budget.tokens, &options.files.architecture);
        batch.truncate(tuning.budget.texts);
        Ok(Rate { parallelism, tuning, texts_per_s: side_by_side(first, parallelism, &batch)? })
    };
    // On its own thread, because libtorch keeps state per thread, and so that a panic affects only this device.
    thread::scope(|scope| scope.spawn(measure).join()).unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> EncodeError {
    EncodeError::Torch { doing: "measuring", reason: "it panicked".to_owned() }
}

/// Texts per second of all encoders of `parallelism`, which share the weights of `first`.
fn side_by_side(first: TchEncoder, parallelism: Parallelism, batch: &[Tokens]) -> Result<f64, EncodeError> {
    let texts: Vec<&Tokens> = batch.iter().collect();
    let first = Mutex::new(first);
    let work = || -> Result<f64, EncodeError> {
        let mut encoder = lock(&first).share_weights();
        // The first pass initialises libtorch's caches for the thread and the shape.
        encoder.encode(&texts)?;
        let (begin, mut done) = (Instant::now(), 0);
        while done == 0 || begin.elapsed() < MEASUREMENT {
            encoder.encode(&texts)?;
            done += texts.len();
        }
        Ok(done as f64 / begin.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..parallelism.encoders.get()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).sum()
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Trial { device, outcome, .. }) in self.trials.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            match outcome {
                Ok(Rate { parallelism, tuning: Tuning { dtype, .. }, texts_per_s }) => {
                    write!(f, "{comma}{device} {texts_per_s:.0} texts/s ({dtype}, {parallelism})")?;
                }
                Err(error) => write!(f, "{comma}{device} none ({error})")?,
            }
        }
        Ok(())
    }
}

/// Each device with each number format that it supports natively, and with the requested one.
pub fn formats(devices: &[Device], asked_for: DtypeChoice) -> Vec<(Device, DtypeChoice)> {
    let pairs = devices.iter().flat_map(|&device| Dtype::ALL.map(|dtype| (device, dtype)));
    let pairs = pairs.map(|(device, dtype)| (device, dtype, DtypeChoice::Only(dtype)));
    let worth = pairs.filter(|&(device, dtype, only)| dtype.is_native(device) || only == asked_for);
    worth.map(|(device, _, only)| (device, only)).collect()
}
