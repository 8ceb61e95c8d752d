//! The encoder that computes with libtorch.

use super::calibrate::{Calibration, Tuning, calibrate, trial};
use super::device::{self, to_device};
use super::device::{Dtype, DtypeChoice};
use super::error::Doing;
use super::error::EncodeError;
use super::head::Head;
use super::json_file::FETCH_AGAIN;
use super::linear::{FusedKernels, LinearKind};
use super::model_files::ModelFiles;
use super::network::Network;
use super::plan::Budget;
use super::port::{Encoder, Vector, length};
use super::tokens::Tokens;
use crate::memory::release_freed;
use crate::model::ModelIdentity;
use crate::threads::catch_panic;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Which model is loaded, and how it computes.
#[derive(Debug, Clone)]
pub struct EncoderOptions {
    /// The files of the model.
    pub files: ModelFiles,
    /// The device of the computation.
    pub device: device::Device,
    /// The allowed number formats.
    pub dtype: DtypeChoice,
    /// The threads of libtorch; `None` for one per core.
    pub threads: Option<NonZeroUsize>,
    /// With `false`, each text has a pass of its own; used as the baseline of comparisons.
    pub batch_texts: bool,
    /// The result of an earlier [`load`] on this machine, used to rebuild after a failure. If set, nothing is measured.
    pub tuning: Option<Tuning>,
}

/// A model in memory, computed by libtorch in one number format on one device.
pub struct TchEncoder {
    identity: ModelIdentity,
    files: ModelFiles,
    network: Network,
    head: Head,
    dtype: Dtype,
    device: Device,
    batch_texts: bool,
    threads: Option<NonZeroUsize>,
}

/// Loads a model and measures the fastest way to compute it, which takes a few seconds. Must be called on the thread
/// that runs the encoder, because libtorch's thread count is set per thread.
///
/// # Errors
/// [`EncodeError`] for invalid files or weights, or a device that fails.
pub fn load(options: &EncoderOptions) -> Result<(TchEncoder, Calibration), EncodeError> {
    let of_folder = |reason: String| EncodeError::bad_file(&options.files.folder, reason);
    let loaded = catch_panic(|| read_and_calibrate(options));
    // Two thirds of the peak of loading are the weights as read and the rejected candidates.
    release_freed();
    let (mut encoder, calibration) =
        loaded.unwrap_or_else(|panic| Err(of_folder(format!("the model cannot be loaded: {panic}"))))?;
    // Weights of zeros, or without numbers, have the right shape.
    let mut texts = trial(1, &options.files.architecture);
    for text in &mut texts {
        text.ids = text.ids.iter().copied().take(options.files.max_tokens).collect();
    }
    for vector in encoder.encode(&texts.iter().collect::<Vec<_>>())? {
        vector.map_err(|error| of_folder(format!("{error}; {FETCH_AGAIN}")))?;
    }
    Ok((encoder, calibration))
}

/// Loads a model as the start does, without measuring which way to compute is the fastest.
///
/// # Errors
/// As [`load`].
pub fn try_out(options: &EncoderOptions) -> Result<(), EncodeError> {
    let dtype = match options.dtype {
        DtypeChoice::Only(dtype) => dtype,
        DtypeChoice::Auto => Dtype::F32,
    };
    let tuning = Tuning { dtype, linear: LinearKind::Default, budget: Budget { tokens: 512, texts: 1 } };
    let options = EncoderOptions { tuning: Some(tuning), ..options.clone() };
    // On its own thread, because libtorch keeps state per thread.
    let loaded = thread::scope(|scope| scope.spawn(|| load(&options).map(drop)).join());
    loaded.unwrap_or_else(|_| {
        Err(EncodeError::Torch { doing: "loading the model", reason: "it panicked".to_owned() })
    })
}

fn read_and_calibrate(options: &EncoderOptions) -> Result<(TchEncoder, Calibration), EncodeError> {
    let begin = Instant::now();
    keep_freed_memory().doing("allocating memory")?;
    let device = options.device.torch();
    set_threads(options.threads);
    let identity = options.files.identity()?;
    let weights = Network::read(&options.files, device)?;
    let head = Head::load(&options.files, device)?;
    let build = |dtype: Dtype, linear: LinearKind| -> Result<TchEncoder, EncodeError> {
        let kernels = match linear {
            LinearKind::Default => None,
            LinearKind::Packed => Some(FusedKernels::load()?),
        };
        Ok(TchEncoder {
            identity: identity.clone(),
            files: options.files.clone(),
            network: tch::no_grad(|| {
                Network::new(&options.files.architecture, &weights, dtype, kernels.as_ref())
            })?,
            head: head.share_weights(),
            dtype,
            device,
            batch_texts: options.batch_texts,
            threads: options.threads,
        })
    };
    match options.tuning {
        Some(tuning) => {
            let encoder = build(tuning.dtype, tuning.linear)?;
            Ok((encoder, Calibration { tuning, candidates: Vec::new(), took: begin.elapsed() }))
        }
        None => {
            let (encoder, mut calibration) =
                calibrate(options.dtype, options.device, &options.files.architecture, build)?;
            calibration.took = begin.elapsed();
            Ok((encoder, calibration))
        }
    }
}

/// Sets libtorch's thread count of the process, which a thread copies at its first pass, and that of this thread.
fn set_threads(threads: Option<NonZeroUsize>) {
    if let Some(threads) = threads {
        tch::set_num_threads(i32::try_from(threads.get()).unwrap_or(i32::MAX));
    }
}

/// Each pass allocates and frees the same megabytes of intermediate results. glibc returns blocks of that size to the
/// system immediately, and allocating them again costs up to half of a pass. glibc keeps blocks up to the largest size
/// freed so far, at most 32 MiB, so one such block is freed here. Without glibc this has no effect.
fn keep_freed_memory() -> Result<(), tch::TchError> {
    const NEARLY_32_MIB: i64 = (32 << 20) - (64 << 10);
    Tensor::f_empty([NEARLY_32_MIB], (Kind::Uint8, Device::Cpu)).map(drop)
}

impl Encoder for TchEncoder {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn dims(&self) -> usize {
        self.identity.dims
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Vector>, EncodeError> {
        let checks: Vec<Result<(), EncodeError>> = texts.iter().map(|text| self.check(text)).collect();
        let good: Vec<&Tokens> =
            texts.iter().zip(&checks).filter(|(_, check)| check.is_ok()).map(|(text, _)| *text).collect();
        let pass = if self.batch_texts { good.len() } else { 1 };
        let mut rows = Vec::with_capacity(good.len() * self.dims());
        for batch in good.chunks(pass.max(1)) {
            tch::no_grad(|| self.run(batch, &mut rows))?;
        }
        let mut rows = rows.chunks_exact(self.dims());
        Ok(checks
            .into_iter()
            .map(|check| check.and_then(|()| unit(rows.next().unwrap_or_default())))
            .collect())
    }
}

impl TchEncoder {
    /// Another encoder over the same weights, which are not copied: passes only read them. To be called on the thread
    /// that will keep it, as [`load`] is; it computes on as many threads as this one.
    pub fn share_weights(&self) -> TchEncoder {
        set_threads(self.threads);
        TchEncoder {
            identity: self.identity.clone(),
            files: self.files.clone(),
            network: tch::no_grad(|| self.network.share_weights()),
            head: self.head.share_weights(),
            ..*self
        }
    }

    /// The number format it computes in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn check(&self, text: &Tokens) -> Result<(), EncodeError> {
        let foreign = |what, expected: String, received: usize| {
            Err(EncodeError::ForeignTokens { what, expected, received: received.to_string() })
        };
        let (longest, vocabulary) = (self.files.max_tokens, self.files.architecture.vocabulary);
        if text.is_empty() || text.len() > longest {
            return foreign("length", format!("1 to {longest}"), text.len());
        }
        // A negative id becomes a large number.
        match text.ids.iter().map(|&id| id as u32 as usize).find(|&id| id >= vocabulary) {
            Some(id) => foreign("id", format!("below {vocabulary}"), id),
            None => Ok(()),
        }
    }

    /// One pass over checked texts; appends their vectors, `dims` values each, not normalised.
    fn run(&self, texts: &[&Tokens], rows: &mut Vec<f32>) -> Result<(), EncodeError> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let width = lengths.iter().copied().max().unwrap_or_default();
        let (count, dims) = (texts.len(), self.dims());
        if count == 0 {
            return Ok(());
        }
        let mut ids = vec![0_i32; count * width];
        for (row, text) in ids.chunks_exact_mut(width).zip(texts) {
            row[..text.len()].copy_from_slice(&text.ids);
        }
        let to_device =
            |tensor: Tensor| to_device(&tensor, self.device).doing("moving a batch to the device");
        let ids = Tensor::f_from_slice(&ids).and_then(|ids| ids.f_view([count as i64, width as i64]));
        let ids = to_device(ids.doing("building a batch")?)?;
        let pooled = self.head.apply(&self.network.forward(&ids, &lengths)?, &lengths)?;
        let pooled =
            pooled.f_to_device(Device::Cpu).and_then(|pooled| pooled.f_contiguous()).doing("pooling")?;
        let start = rows.len();
        rows.resize(start + count * dims, 0.0);
        pooled.f_copy_data(&mut rows[start..], count * dims).doing("copying vectors")
    }
}

/// Scales a vector to unit length.
fn unit(row: &[f32]) -> Vector {
    let length = length(row)?;
    Ok(row.iter().map(|&value| (f64::from(value) / length) as f32).collect())
}
