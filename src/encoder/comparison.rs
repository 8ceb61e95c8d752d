//! Which device of this machine is the fastest with this model.
//!
//! Like is compared with like: texts in a second of a whole device, so that the processor has all encoders of its
//! parallelism at work, and a GPU its one. A device that fails is in the table with its reason, and is not taken.

use super::calibrate::{Tuning, trial};
use super::{
    Device, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, Parallelism, TchEncoder, Tokens, load,
};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// For how long all encoders of a device work at once.
const SIDE_BY_SIDE: Duration = Duration::from_millis(500);

/// How fast a device is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Its encoders.
    pub parallelism: Parallelism,
    /// The fastest way to compute on it, of those that were allowed.
    pub tuning: Tuning,
    /// Short paragraphs in a second, of all its encoders together.
    pub texts_per_s: f64,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What was measured.
    pub device: Device,
    /// The number formats that were allowed.
    pub dtype: DtypeChoice,
    /// How fast it is, or why it cannot be taken.
    pub outcome: Result<Rate, EncodeError>,
}

/// The table, in the order of measuring.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Its rows.
    pub trials: Vec<Trial>,
}

/// Where to compute.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The only device, or the fastest.
    pub device: Device,
    /// How it was found to compute best; absent when nothing had to be compared.
    pub tuning: Option<Tuning>,
    /// What was measured.
    pub comparison: Comparison,
}

impl Comparison {
    /// Measures one after the other, because they share the processor.
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

    /// The position of the fastest one among those that may be taken; of equal ones the first.
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

/// Takes the only device as it is, without measuring it, or measures several and takes the fastest.
///
/// # Errors
/// What was wrong with the first device, when none works.
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

/// Measures the device of these options with their model. What was found about it before is not asked.
///
/// # Errors
/// As [`load`]; or what failed in a pass.
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
    // On a thread of its own, because libtorch keeps state for each; and a panic there is this device's alone.
    thread::scope(|scope| scope.spawn(measure).join()).unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> EncodeError {
    EncodeError::Torch { doing: "measuring", reason: "it panicked".to_owned() }
}

/// Texts in a second of so many encoders over the same weights.
fn side_by_side(first: TchEncoder, parallelism: Parallelism, batch: &[Tokens]) -> Result<f64, EncodeError> {
    let texts: Vec<&Tokens> = batch.iter().collect();
    let first = Mutex::new(first);
    let work = || -> Result<f64, EncodeError> {
        let mut share_weights = first.lock().unwrap_or_else(PoisonError::into_inner).share_weights();
        // The first pass sets up what libtorch keeps for a thread and for a shape.
        share_weights.encode(&texts)?;
        let (begin, mut done) = (Instant::now(), 0);
        while done == 0 || begin.elapsed() < SIDE_BY_SIDE {
            share_weights.encode(&texts)?;
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

/// Each device with each number format that it multiplies in itself, and with the one that is asked for.
pub fn formats(devices: &[Device], asked_for: DtypeChoice) -> Vec<(Device, DtypeChoice)> {
    let pairs = devices.iter().flat_map(|&device| Dtype::ALL.map(|dtype| (device, dtype)));
    let pairs = pairs.map(|(device, dtype)| (device, dtype, DtypeChoice::Only(dtype)));
    let worth = pairs.filter(|&(device, dtype, only)| dtype.is_native(device) || only == asked_for);
    worth.map(|(device, _, only)| (device, only)).collect()
}
