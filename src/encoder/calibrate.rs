//! Finds out at the start how the model runs best on this machine: number format, matrix product, size of a pass.

use super::plan::Budget;
use super::{Architecture, Device, Dtype, DtypeChoice, EncodeError, Encoder, LinearKind, TchEncoder, Tokens};
use std::fmt;
use std::time::{Duration, Instant};

/// How a model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The number format.
    pub dtype: Dtype,
    /// The matrix product.
    pub linear: LinearKind,
    /// What one pass may hold, for [`super::plan::choose`].
    pub budget: Budget,
}

/// What was measured, for the start-up log, and what was chosen.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The choice.
    pub tuning: Tuning,
    /// All ways that were tried.
    pub candidates: Vec<Candidate>,
    /// How long it took, with loading.
    pub took: Duration,
}

/// One way to compute, and how fast it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The number format.
    pub dtype: Dtype,
    /// The matrix product.
    pub linear: LinearKind,
    /// Short paragraphs in a second: of the processor, on one thread.
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

/// A paragraph.
const TYPICAL_TOKENS: usize = 56;
/// Tokens of the pass that candidates are compared with. A GPU is not busy with the smaller one.
const TRIAL_TOKENS: usize = 512;
const TRIAL_TOKENS_OF_GPU: usize = 8192;
/// How long one candidate is tried, and how long all sizes together.
const TRIAL: Duration = Duration::from_millis(250);
const SIZES_TRIAL: Duration = Duration::from_millis(600);
/// See [`pass_times`].
const COUNTABLE_WORK: Duration = Duration::from_millis(40);
/// A query that arrives waits for one pass, so a pass has to stay short. On a large GPU all sizes do.
const LONGEST_PASS: Duration = Duration::from_millis(60);
/// Padded tokens of one pass. Below, libtorch's overhead per step shows; above, intermediate results leave the cache.
const SIZES: [usize; 9] = [512, 768, 1024, 1536, 2048, 4096, 8192, 16_384, 32_768];
/// For a model so large that a pass of the smallest size takes [`VERY_LONG_PASS`].
const SIZE_OF_LARGE_MODELS: usize = 128;
const VERY_LONG_PASS: Duration = Duration::from_millis(250);
/// Tokens of a text of the warm-up: the finest step of the rows.
const WARM_UP_TOKENS: usize = 16;
/// What a larger pass must gain to be worth the longer wait.
const WORTH: f64 = 1.02;

/// Builds each way to compute with `build`, tries it, and keeps the fastest.
pub(super) fn calibrate(
    choice: DtypeChoice,
    device: Device,
    shape: &Architecture,
    build: impl Fn(Dtype, LinearKind) -> Result<TchEncoder, EncodeError>,
) -> Result<(TchEncoder, Calibration), EncodeError> {
    let begin = Instant::now();
    // Ways are compared on one thread: what is fastest there is fastest on several, and several that wait for each
    // other measure the neighbours rather than the way.
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let (trial_tokens, factor) = match device {
        Device::Cpu => (TRIAL_TOKENS, f64::from(threads)),
        Device::Mps | Device::Cuda(_) => (TRIAL_TOKENS_OF_GPU, 1.0),
    };
    let batch = [trial(trial_tokens, shape)];
    let mut candidates = Vec::new();
    let mut best: Option<(TchEncoder, Candidate)> = None;
    let mut failure = None;
    for (dtype, linear) in ways(choice, device) {
        let tried = build(dtype, linear).and_then(|mut encoder| {
            let took = pass_times(&mut encoder, &batch, TRIAL)?;
            Ok((encoder, took[0]))
        });
        let (encoder, took) = match tried {
            Ok(tried) => tried,
            // Not every libtorch has every way. What is wrong with the model or the device is wrong with all.
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
    let budget = Budget { tokens: best_size(&mut encoder, texts_per_s, shape)?, texts: 512 };
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

fn best_size(encoder: &mut TchEncoder, texts_per_s: f64, shape: &Architecture) -> Result<usize, EncodeError> {
    let tokens_within = |time: Duration| (texts_per_s * TYPICAL_TOKENS as f64 * time.as_secs_f64()) as usize;
    if tokens_within(VERY_LONG_PASS) < SIZES[0] {
        return Ok(SIZE_OF_LARGE_MODELS);
    }
    let longest = tokens_within(LONGEST_PASS).max(SIZES[0]);
    let sizes: Vec<usize> = SIZES.into_iter().filter(|&size| size <= longest).collect();
    let trials: Vec<Vec<Tokens>> = sizes.iter().map(|&size| trial(size, shape)).collect();
    let mut best = (SIZES[0], 0.0);
    for (size, took) in sizes.into_iter().zip(pass_times(encoder, &trials, SIZES_TRIAL)?) {
        let tokens_per_s = size as f64 / took.as_secs_f64();
        if tokens_per_s > best.1 * WORTH {
            best = (size, tokens_per_s);
        }
    }
    Ok(best.0)
}

/// Makes a pass of each number of rows that a pass can have, so that no chunk waits for the kernels of one.
fn warm_up(
    encoder: &mut TchEncoder,
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

/// How long a pass over each of the batches takes. They take turns for `time`.
fn pass_times(
    encoder: &mut TchEncoder,
    batches: &[Vec<Tokens>],
    time: Duration,
) -> Result<Vec<Duration>, EncodeError> {
    let begin = Instant::now();
    // One thread on a processor: what it worked is what a pass costs, however busy the machine is. LlmFallback the
    // fastest pass, because whatever else the machine does only makes a pass slower.
    let of_thread = encoder.device() == tch::Device::Cpu && tch::get_num_threads() == 1;
    let mut fastest = vec![Duration::MAX; batches.len()];
    let mut worked = vec![Some(Duration::ZERO); batches.len()];
    let mut rounds = 0;
    loop {
        for (index, batch) in batches.iter().enumerate() {
            let texts: Vec<&Tokens> = batch.iter().collect();
            if rounds == 0 {
                // The first pass sets up what libtorch keeps for each shape.
                encoder.encode(&texts)?;
            }
            let (start, work) = (Instant::now(), work_of_this_thread());
            encoder.encode(&texts)?;
            fastest[index] = start.elapsed().min(fastest[index]);
            let done = work_of_this_thread().zip(work).and_then(|(after, before)| after.checked_sub(before));
            worked[index] = worked[index].zip(done).map(|(sum, done)| sum + done);
        }
        rounds += 1;
        if begin.elapsed() > time {
            break;
        }
    }
    let times = fastest.into_iter().zip(worked).map(|(fastest, worked)| match worked {
        // The kernel counts in steps of some milliseconds, so a sum of a few of them says nothing.
        Some(worked) if of_thread && worked > COUNTABLE_WORK => worked / rounds,
        _ => fastest,
    });
    Ok(times.collect())
}

/// The processor time this thread has used, where the system tells it.
fn work_of_this_thread() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    times.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Texts of a typical length, not all of the same one, that fill a pass of `tokens`. What they say does not matter
/// for the time it takes.
pub(super) fn trial(tokens: usize, shape: &Architecture) -> Vec<Tokens> {
    let width = TYPICAL_TOKENS.min(longest(shape));
    let count = (tokens / width).max(1);
    (0..count).map(|nth| text(width - (nth % 4).min(width - 1), nth as u32, shape)).collect()
}

/// What the network could read at once; a warm-up has no use for more.
fn longest(shape: &Architecture) -> usize {
    shape.positions().unwrap_or(TYPICAL_TOKENS)
}

fn text(length: usize, seed: u32, shape: &Architecture) -> Tokens {
    let mut state = seed;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as usize >> 8) % shape.vocabulary
    };
    Tokens { ids: (0..length).map(|_| token() as i32).collect(), truncated: false }
}
