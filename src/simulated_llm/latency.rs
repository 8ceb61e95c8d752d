//! The latency of calls: a distribution in a short notation, and random samples of it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest latency and the largest spread that are accepted.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const WIDEST: f64 = 5.0;

/// The distribution of the time for which a call holds its slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Latency {
    /// `887ms`: constant.
    Constant(Duration),
    /// `500ms..1500ms`: uniform between two bounds.
    Uniform(Duration, Duration),
    /// `887ms~0.2`: log-normal, by its median and the standard deviation of its logarithm.
    LogNormal(Duration, f64),
}

/// The text is no valid latency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a latency is '{0}': expected 887ms, 500ms..1500ms or 887ms~0.2 (ms or s, at most a day; spread up to 5)"
)]
pub struct InvalidLatency(String);

impl Latency {
    /// The median of the distribution.
    pub fn median(&self) -> Duration {
        match *self {
            Latency::Constant(time) | Latency::LogNormal(time, _) => time,
            Latency::Uniform(low, high) => (low + high) / 2,
        }
    }
}

impl Default for Latency {
    /// The latency measured with the old service: 887 ms.
    fn default() -> Self {
        Latency::Constant(Duration::from_millis(887))
    }
}

impl FromStr for Latency {
    type Err = InvalidLatency;

    fn from_str(text: &str) -> Result<Self, InvalidLatency> {
        let parsed = if let Some((low, high)) = text.split_once("..") {
            let bounds = duration(low).zip(duration(high)).filter(|(low, high)| low <= high);
            bounds.map(|(low, high)| Latency::Uniform(low, high))
        } else if let Some((median, sigma)) = text.split_once('~') {
            let sigma = sigma.trim().parse().ok().filter(|sigma| (0.0..=WIDEST).contains(sigma));
            duration(median).zip(sigma).map(|(median, sigma)| Latency::LogNormal(median, sigma))
        } else {
            duration(text).map(Latency::Constant)
        };
        parsed.ok_or_else(|| InvalidLatency(text.to_owned()))
    }
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let number: f64 = number.trim().parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST)
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        match self {
            Latency::Constant(time) => write!(f, "{}ms", ms(time)),
            Latency::Uniform(low, high) => write!(f, "{}ms..{}ms", ms(low), ms(high)),
            Latency::LogNormal(median, sigma) => write!(f, "{}ms~{sigma}", ms(median)),
        }
    }
}

/// Samples latencies; equal seeds give equal samples.
pub struct LatencySampler {
    random: StdRng,
}

impl LatencySampler {
    /// Seeds the random number generator.
    pub fn new(seed: u64) -> Self {
        LatencySampler { random: StdRng::seed_from_u64(seed) }
    }

    /// The next sample.
    pub fn draw(&mut self, latency: Latency) -> Duration {
        match latency {
            Latency::Constant(time) => time,
            Latency::Uniform(low, high) => low + (high - low).mul_f64(self.random.random()),
            Latency::LogNormal(median, sigma) => {
                let times = (sigma * self.normal()).exp();
                Duration::try_from_secs_f64(median.as_secs_f64() * times).unwrap_or(LONGEST).min(LONGEST)
            }
        }
    }

    /// A sample of the standard normal distribution (Box-Muller transform).
    fn normal(&mut self) -> f64 {
        let (u, v): (f64, f64) = (self.random.random(), self.random.random());
        // `u` is below one, so the logarithm is finite.
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn three_forms_are_read_and_written() {
        for (text, latency) in [
            ("887ms", Latency::Constant(ms(887))),
            ("0ms", Latency::Constant(ms(0))),
            ("500ms..1500ms", Latency::Uniform(ms(500), ms(1500))),
            ("887ms~0.2", Latency::LogNormal(ms(887), 0.2)),
        ] {
            assert_eq!(text.parse(), Ok(latency));
            assert_eq!(latency.to_string(), text);
        }
        assert_eq!("1.5s".parse(), Ok(Latency::Constant(ms(1500))));
        assert_eq!("500ms .. 1s".parse::<Latency>().map(|latency| latency.median()), Ok(ms(750)));
    }

    #[test]
    fn anything_else_is_refused_with_a_sentence() {
        for text in
            ["", "887", "ms", "-1ms", "NaNms", "infs", "2s..1s", "1s~-1", "1s~x", "1s~9", "1m", "25000000s"]
        {
            let error = text.parse::<Latency>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")) && error.contains("887ms~0.2"), "{error}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let draw = |seed, latency| {
            let mut sampler = LatencySampler::new(seed);
            let mut times: Vec<Duration> = (0..2001).map(|_| sampler.draw(latency)).collect();
            let drawn = times.clone();
            times.sort();
            (drawn, times)
        };
        let uniform = Latency::Uniform(ms(500), ms(1500));
        let (drawn, sorted) = draw(1, uniform);
        assert!(sorted[0] >= ms(500) && sorted[2000] <= ms(1500));
        assert!((ms(950)..ms(1050)).contains(&sorted[1000]), "{:?}", sorted[1000]);
        assert_eq!(drawn, draw(1, uniform).0);
        assert_ne!(drawn, draw(2, uniform).0);

        let (_, sorted) = draw(3, Latency::LogNormal(ms(1000), 0.2));
        // One standard deviation to each side holds 68 % of the draws.
        let within = sorted.iter().filter(|time| (ms(819)..ms(1221)).contains(*time)).count();
        assert!((ms(975)..ms(1025)).contains(&sorted[1000]), "{:?}", sorted[1000]);
        assert!((1280..1450).contains(&within), "{within}");
    }
}
