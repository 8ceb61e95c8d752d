//! What a forward pass has to compute, and what the machine can.

use crate::median;
use lnsp_ingest::encoder::{Architecture, Dtype, Family};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Floating-point operations of the products that one text of so many tokens needs; a multiplication with its addition
/// counts as two.
pub fn flop(shape: &Architecture, tokens: usize) -> f64 {
    let attention = shape.heads * shape.head_width;
    let up = match shape.family {
        Family::Bert { .. } => 1,
        Family::T5(t5) => 1 + usize::from(t5.gated),
    };
    // Query, key, value and output; then the feed-forward part.
    let weights = 4 * shape.hidden * attention + (up + 1) * shape.hidden * shape.intermediate;
    // Each token with each: scores, then the mean of the values.
    let pairs = 2 * tokens * tokens * attention;
    2.0 * (shape.layers * (tokens * weights + pairs)) as f64
}

/// What this machine does with a large matrix product, in operations a second. On all cores, whatever the encoders'
/// threads are.
pub fn matrix_rate(dtype: Dtype) -> f64 {
    let threads = tch::get_num_threads();
    tch::set_num_threads(thread::available_parallelism().map_or(1, NonZeroUsize::get) as i32);
    let kind = match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    };
    let (rows, inner, columns) = (1024, 1536, 1536);
    let x = Tensor::ones([rows, inner], (kind, Device::Cpu));
    let y = Tensor::ones([inner, columns], (kind, Device::Cpu));
    let once = || {
        let start = Instant::now();
        let _product = x.matmul(&y);
        start.elapsed().as_secs_f64()
    };
    let took = median((0..20).map(|_| once()).collect());
    tch::set_num_threads(threads);
    (2 * rows * inner * columns) as f64 / took
}
