//! Which calls have which fault.

use super::fault::{Fault, UnknownFault};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::str::FromStr;

/// A fault and the share of calls that have it, from 0 to 1; written `hang=0.02`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultShare {
    /// What goes wrong.
    pub fault: Fault,
    /// The probability that a call has it.
    pub share: f64,
}

/// The text is no fault with its share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFaultShare {
    /// There is no such fault.
    #[error(transparent)]
    Fault(#[from] UnknownFault),
    /// The share is missing or not between 0 and 1.
    #[error("a share of faults is '{0}': expected a fault and a number from 0 to 1, as in hang=0.02")]
    Share(String),
}

impl FromStr for FaultShare {
    type Err = InvalidFaultShare;

    fn from_str(text: &str) -> Result<Self, InvalidFaultShare> {
        let invalid = || InvalidFaultShare::Share(text.to_owned());
        let (fault, share) = text.split_once('=').ok_or_else(invalid)?;
        let share = share.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
        Ok(FaultShare { fault: fault.trim().parse()?, share: share.ok_or_else(invalid)? })
    }
}

impl fmt::Display for FaultShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.fault, self.share)
    }
}

/// Decides for each call whether it has a fault, and which.
#[derive(Debug)]
pub enum FaultSchedule {
    /// No call has one.
    Never,
    /// On every n-th call, counted since it was set.
    EveryNth {
        /// What goes wrong.
        fault: Fault,
        /// The n, which is at least 1.
        every: u64,
        /// The number of calls so far.
        seen: u64,
    },
    /// Each call draws; where the shares add up to more than 1, the last ones never come.
    Shares {
        /// The faults with their shares.
        shares: Vec<FaultShare>,
        /// Equal seeds give the same faults to the same calls.
        random: Box<StdRng>,
    },
}

impl FaultSchedule {
    /// On every n-th call, with n = `every`; 0 is treated as 1.
    pub fn every_nth(fault: Fault, every: u64) -> Self {
        FaultSchedule::EveryNth { fault, every: every.max(1), seen: 0 }
    }

    /// On a share of the calls, drawn from `seed`.
    pub fn shares(shares: &[FaultShare], seed: u64) -> Self {
        FaultSchedule::Shares { shares: shares.to_vec(), random: Box::new(StdRng::seed_from_u64(seed)) }
    }

    /// Counts a call; returns its fault, if any.
    pub fn next_fault(&mut self) -> Option<Fault> {
        match self {
            FaultSchedule::Never => None,
            FaultSchedule::EveryNth { fault, every, seen } => {
                *seen += 1;
                seen.is_multiple_of(*every).then_some(*fault)
            }
            FaultSchedule::Shares { shares, random } => {
                let mut drawn: f64 = random.random();
                let mut hit = |share: &&FaultShare| {
                    drawn -= share.share;
                    drawn < 0.0
                };
                shares.iter().find(|share| hit(share)).map(|share| share.fault)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_occurs_on_every_nth_call() {
        let mut schedule = FaultSchedule::every_nth(Fault::Cut, 3);
        let faulty: Vec<bool> = (0..7).map(|_| schedule.next_fault().is_some()).collect();
        assert_eq!(faulty, [false, false, true, false, false, true, false]);
        assert_eq!(FaultSchedule::every_nth(Fault::Cut, 0).next_fault(), Some(Fault::Cut));
        assert_eq!(FaultSchedule::Never.next_fault(), None);
    }

    #[test]
    fn shares_are_kept_and_follow_the_seed() {
        let shares: Vec<FaultShare> =
            Fault::ALL.into_iter().map(|fault| FaultShare { fault, share: 0.02 }).collect();
        let draw = |seed| {
            let mut schedule = FaultSchedule::shares(&shares, seed);
            (0..10_000).map(|_| schedule.next_fault()).collect::<Vec<_>>()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        for fault in Fault::ALL {
            let seen = drawn.iter().filter(|drawn| **drawn == Some(fault)).count();
            // 200 are expected, with a standard deviation of 14.
            assert!((140..260).contains(&seen), "{fault}: {seen}");
        }
    }

    #[test]
    fn a_share_is_read_and_written() {
        let share: FaultShare = "half-json=0.02".parse().unwrap();
        assert_eq!((share.fault, share.to_string().as_str()), (Fault::HalfJson, "half-json=0.02"));
        for (text, said) in
            [("hang", "'hang'"), ("hang=2", "'hang=2'"), ("hang=x", "hang=0.02"), ("fire=0.1", "'fire'")]
        {
            let error = text.parse::<FaultShare>().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
