//! Measures at startup which number format, matrix product and pass size are the fastest on this machine.

use super::architecture::Architecture;
use super::device::{Device, Dtype, DtypeChoice};
use super::error::EncodeError;
use super::linear::LinearKind;
use super::plan::Budget;
use super::port::Encoder;
use super::tokens::Tokens;
use std::fmt;
use std::time::{Duration, Instant};

/// The chosen way to compute a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The number format of matrix products.
    pub dtype: Dtype,
    /// The implementation of matrix products.
    pub linear: LinearKind,
    /// The limits of one pass, for [`super::plan::choose`].
    pub budget: Budget,
}

/// The measurements at startup and the choice.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The fastest candidate with its budget.
    pub tuning: Tuning,
    /// All measured candidates; empty if nothing had to be measured.
    pub candidates: Vec<Candidate>,
    /// The duration of loading and measuring.
    pub took: Duration,
}

/// One measured combination of number format and matrix product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The number format of matrix products.
    pub dtype: Dtype,
    /// The implementation of matrix products.
    pub linear: LinearKind,
    /// Texts of about 56 tokens per second, on one thread of the CPU.
    pub texts_per_s: f64,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuning { dtype, linear, budget } = self.tuning;
        write!(f, "{dtype} {linear}, {} tokens a pass (", budget.tokens)?;
        for (index, Candidate { dtype, linear, texts_per_s }) in self.candidates.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{dtype} {linear} {texts_per_s:.0}")?;
        }
        write!(f, "; texts/s on one thread; took {:.1} s)", self.took.as_secs_f64())
    }
}

/// The length of a short paragraph.
const TYPICAL_TOKENS: usize = 56;
/// The tokens of the pass with which candidates are compared. A GPU needs a larger pass to be busy.
const TRIAL_TOKENS: usize = 512;
const TRIAL_TOKENS_OF_GPU: usize = 8192;
/// The duration of measuring one candidate, and all pass sizes together.
const TRIAL: Duration = Duration::from_millis(250);
const SIZES_TRIAL: Duration = Duration::from_millis(600);
/// The CPU time below which the kernel's accounting is too coarse; see [`pass_times`].
const COUNTABLE_WORK: Duration = Duration::from_millis(40);
/// A search waits for the pass in progress, so a pass must be short. On a large GPU all sizes are.
const LONGEST_PASS: Duration = Duration::from_millis(60);
/// Candidates for the padded tokens of a pass. Smaller ones suffer from libtorch's overhead per operation; with larger
/// ones intermediate results do not fit into the cache.
const SIZES: [usize; 9] = [512, 768, 1024, 1536, 2048, 4096, 8192, 16_384, 32_768];
/// The pass size of a model for which the smallest of [`SIZES`] takes longer than [`VERY_LONG_PASS`].
const SIZE_OF_LARGE_MODELS: usize = 128;
const VERY_LONG_PASS: Duration = Duration::from_millis(250);
/// The tokens of a warm-up text: the smallest step of [`LinearKind::rows`].
const WARM_UP_TOKENS: usize = 16;
/// The minimum speed-up for which a larger pass is chosen.
const WORTH: f64 = 1.02;

/// Builds each candidate with `build`, measures it, and returns the fastest.
pub(super) fn calibrate<E: Encoder>(
    choice: DtypeChoice,
    device: Device,
    shape: &Architecture,
    build: impl Fn(Dtype, LinearKind) -> Result<E, EncodeError>,
) -> Result<(E, Calibration), EncodeError> {
    let begin = Instant::now();
    // Candidates are compared on one thread. The fastest there is also the fastest on several, and with several threads
    // that wait for each other, other load on the machine distorts the result.
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let (trial_tokens, factor) = match device {
        Device::Cpu => (TRIAL_TOKENS, f64::from(threads)),
        Device::Mps | Device::Cuda(_) => (TRIAL_TOKENS_OF_GPU, 1.0),
    };
    let batch = [trial(trial_tokens, shape)];
    let mut candidates = Vec::new();
    let mut best: Option<(E, Candidate)> = None;
    let mut failure = None;
    for (dtype, linear) in ways(choice, device) {
        let tried = build(dtype, linear).and_then(|mut encoder| {
            let took = pass_times(&mut encoder, device, &batch, TRIAL)?;
            Ok((encoder, took[0]))
        });
        let (encoder, took) = match tried {
            Ok(tried) => tried,
            // A libtorch may lack one implementation. Errors of the model or the device affect all candidates.
            Err(error @ EncodeError::Torch { .. }) => {
                failure = failure.or(Some(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        let candidate = Candidate { dtype, linear, texts_per_s: batch[0].len() as f64 / took.as_secs_f64() };
        candidates.push(candidate);
        if best.as_ref().is_none_or(|(_, best)| candidate.texts_per_s > best.texts_per_s) {
            best = Some((encoder, candidate));
        }
    }
    let Some((mut encoder, Candidate { dtype, linear, texts_per_s })) = best else {
        let none = || EncodeError::Torch { doing: "looking for a way to compute", reason: "none".to_owned() };
        return Err(failure.unwrap_or_else(none));
    };
    tch::set_num_threads(threads);
    let texts_per_s = texts_per_s * factor;
    let budget = Budget { tokens: best_size(&mut encoder, device, texts_per_s, shape)?, texts: 512 };
    warm_up(&mut encoder, linear, budget, shape)?;
    Ok((encoder, Calibration { tuning: Tuning { dtype, linear, budget }, candidates, took: begin.elapsed() }))
}

fn ways(choice: DtypeChoice, device: Device) -> Vec<(Dtype, LinearKind)> {
    let dtypes = match choice {
        DtypeChoice::Only(dtype) => vec![dtype],
        DtypeChoice::Auto => Dtype::ALL.into_iter().filter(|dtype| dtype.is_native(device)).collect(),
    };
    let linears: &[LinearKind] = if device == Device::Cpu {
        &[LinearKind::Default, LinearKind::Packed]
    } else {
        &[LinearKind::Default]
    };
    dtypes.into_iter().flat_map(|dtype| linears.iter().map(move |&linear| (dtype, linear))).collect()
}

fn best_size(
    encoder: &mut impl Encoder,
    device: Device,
    texts_per_s: f64,
    shape: &Architecture,
) -> Result<usize, EncodeError> {
    let tokens_within = |time: Duration| (texts_per_s * TYPICAL_TOKENS as f64 * time.as_secs_f64()) as usize;
    if tokens_within(VERY_LONG_PASS) < SIZES[0] {
        return Ok(SIZE_OF_LARGE_MODELS);
    }
    let longest = tokens_within(LONGEST_PASS).max(SIZES[0]);
    let sizes: Vec<usize> = SIZES.into_iter().filter(|&size| size <= longest).collect();
    let trials: Vec<Vec<Tokens>> = sizes.iter().map(|&size| trial(size, shape)).collect();
    let mut best = (SIZES[0], 0.0);
    for (size, took) in sizes.into_iter().zip(pass_times(encoder, device, &trials, SIZES_TRIAL)?) {
        let tokens_per_s = size as f64 / took.as_secs_f64();
        if tokens_per_s > best.1 * WORTH {
            best = (size, tokens_per_s);
        }
    }
    Ok(best.0)
}

/// Runs a pass for each possible number of rows, so that oneDNN's kernels are prepared before the first chunk.
fn warm_up(
    encoder: &mut impl Encoder,
    linear: LinearKind,
    budget: Budget,
    shape: &Architecture,
) -> Result<(), EncodeError> {
    let text = text(WARM_UP_TOKENS.min(longest(shape)), 1, shape);
    let mut seen = 0;
    for texts in 1..=budget.tokens / text.len() {
        let rows = linear.rows((texts * text.len()) as i64);
        if linear == LinearKind::Packed && rows > seen {
            encoder.encode(&vec![&text; texts])?;
            seen = rows;
        }
    }
    Ok(())
}

/// The duration of a pass over each batch. The batches are measured in rotation for `time`.
fn pass_times(
    encoder: &mut impl Encoder,
    device: Device,
    batches: &[Vec<Tokens>],
    time: Duration,
) -> Result<Vec<Duration>, EncodeError> {
    let begin = Instant::now();
    // On one CPU thread, CPU time is the cost of a pass regardless of other load. Otherwise the
    // fastest pass counts, because other load on the machine only makes a pass slower.
    let of_thread = device == Device::Cpu && tch::get_num_threads() == 1;
    let mut fastest = vec![Duration::MAX; batches.len()];
    let mut worked = vec![Some(Duration::ZERO); batches.len()];
    let mut rounds = 0;
    loop {
        for (index, batch) in batches.iter().enumerate() {
            let texts: Vec<&Tokens> = batch.iter().collect();
            if rounds == 0 {
                // The first pass initialises libtorch's caches for the shape.
                encoder.encode(&texts)?;
            }
            let (start, work) = (Instant::now(), cpu_time_of_this_thread());
            encoder.encode(&texts)?;
            fastest[index] = start.elapsed().min(fastest[index]);
            let done =
                cpu_time_of_this_thread().zip(work).and_then(|(after, before)| after.checked_sub(before));
            worked[index] = worked[index].zip(done).map(|(sum, done)| sum + done);
        }
        rounds += 1;
        if begin.elapsed() > time {
            break;
        }
    }
    let times = fastest.into_iter().zip(worked).map(|(fastest, worked)| match worked {
        // The kernel counts in steps of some milliseconds, so a small sum is not accurate.
        Some(worked) if of_thread && worked > COUNTABLE_WORK => worked / rounds,
        _ => fastest,
    });
    Ok(times.collect())
}

/// The CPU time of this thread, where the system reports it.
fn cpu_time_of_this_thread() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    times.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Texts of typical, slightly different lengths that fill a pass of `tokens`. Their content does not affect the
/// duration.
pub(super) fn trial(tokens: usize, shape: &Architecture) -> Vec<Tokens> {
    let width = TYPICAL_TOKENS.min(longest(shape));
    let count = (tokens / width).max(1);
    (0..count).map(|nth| text(width - (nth % 4).min(width - 1), nth as u32, shape)).collect()
}

/// The longest text for measurements, in tokens.
fn longest(shape: &Architecture) -> usize {
    shape.positions().unwrap_or(TYPICAL_TOKENS)
}

fn text(length: usize, seed: u32, shape: &Architecture) -> Tokens {
    let mut state = seed;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as usize >> 8) % shape.vocabulary
    };
    Tokens { ids: (0..length).map(|_| token() as i32).collect(), truncated: false, unread: None }
}
