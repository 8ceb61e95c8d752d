//! The number of parallel encoders and of threads per encoder.
//!
//! One thread per encoder is best. The threads of one pass synchronise after every operation, so if one of them loses
//! its core for a moment (to PostgreSQL, HTTP or an index build), all of them wait.

use super::device::Device;
use std::fmt;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// The most encoders; with more cores each encoder gets several threads. Each encoder takes some dozen of the 512
/// queued texts, and enough must remain to form passes of similar length. A single text also gains nothing from more
/// encoders.
const MOST_ENCODERS: usize = 8;

/// Encoders that share weights, each on its own thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallelism {
    /// The number of encoders.
    pub encoders: NonZeroUsize,
    /// The threads of libtorch per encoder, including the encoder's own.
    pub threads: NonZeroUsize,
}

impl Parallelism {
    /// The parallelism for `device` and the cores that this process may use. A GPU has one encoder, because it computes
    /// one pass at a time.
    pub fn on(device: Device) -> Parallelism {
        let cores = available_parallelism().unwrap_or(NonZeroUsize::MIN);
        match device {
            Device::Cpu => Parallelism::of_cores(cores),
            Device::Mps | Device::Cuda(_) => Parallelism { encoders: NonZeroUsize::MIN, threads: cores },
        }
    }

    /// The fewest threads per encoder with at most [`MOST_ENCODERS`] encoders; then as many encoders as fit.
    fn of_cores(cores: NonZeroUsize) -> Parallelism {
        let threads = cores.get().div_ceil(MOST_ENCODERS);
        let at_least_one = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        Parallelism { encoders: at_least_one(cores.get() / threads), threads: at_least_one(threads) }
    }
}

impl fmt::Display for Parallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |number: NonZeroUsize| if number.get() == 1 { "" } else { "s" };
        let (encoders, threads) = (self.encoders, self.threads);
        write!(f, "{encoders} encoder{} of {threads} thread{}", plural(encoders), plural(threads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_each_until_there_are_many() {
        let parallelism = |cores| {
            let parallelism = Parallelism::of_cores(NonZeroUsize::new(cores).unwrap());
            (parallelism.encoders.get(), parallelism.threads.get())
        };
        let pairs = [1, 2, 8, 9, 12, 17, 32, 64].map(parallelism);
        assert_eq!(pairs, [(1, 1), (2, 1), (8, 1), (4, 2), (6, 2), (5, 3), (8, 4), (8, 8)]);
    }
}
