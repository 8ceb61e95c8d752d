//! How many encoders compute side by side, and on how many threads each.
//!
//! One thread each is best: the threads of one pass wait for each other at every step, so one of them that loses its
//! core for a moment (to PostgreSQL, to HTTP, to a build of the index) stops all of them.

use super::Device;
use std::fmt;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// More encoders than this get several threads each instead. Each has a pass of some dozen texts in hand, and enough
/// must be left of the 512 that the service lets wait for texts of like length to find each other; also, a text alone
/// is no faster on one thread of many.
const MOST_ENCODERS: usize = 8;

/// Encoders over the same weights, each on a thread of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallelism {
    /// How many.
    pub encoders: NonZeroUsize,
    /// libtorch's threads for each, its own included.
    pub threads: NonZeroUsize,
}

impl Parallelism {
    /// For the cores that this process may use. A device other than the processor has one encoder: it works on one
    /// pass at a time anyway.
    pub fn on(device: Device) -> Parallelism {
        let cores = available_parallelism().unwrap_or(NonZeroUsize::MIN);
        match device {
            Device::Cpu => Parallelism::of_cores(cores),
            Device::Mps | Device::Cuda(_) => Parallelism { encoders: NonZeroUsize::MIN, threads: cores },
        }
    }

    /// As many threads for each as keep the encoders few; then as many encoders as there are cores for.
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
        let crews = [1, 2, 8, 9, 12, 17, 32, 64].map(parallelism);
        assert_eq!(crews, [(1, 1), (2, 1), (8, 1), (4, 2), (6, 2), (5, 3), (8, 4), (8, 8)]);
    }
}
