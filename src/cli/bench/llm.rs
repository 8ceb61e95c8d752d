//! Which language model gives the codes.

use crate::simulated_llm::Latency;
use std::fmt;
use std::str::FromStr;

/// The value of `--llm`.
#[derive(Debug, Clone, PartialEq)]
pub enum BenchLlm {
    /// The one of the environment.
    Configured,
    /// One that the benchmark starts; without a number it has a slot for each worker.
    Simulated {
        /// The latency of a call.
        latency: Latency,
        /// Calls at the same time.
        slots: Option<usize>,
    },
    /// A simulated one that runs already, by its address: it counts its calls too.
    Running(String),
}

/// A text that names no language model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the language model is '{0}': expected configured, simulated:LATENCY (887ms, 500ms..1500ms, 887ms~0.2), \
     simulated:LATENCY,SLOTS, or simulated:http://HOST:PORT"
)]
pub struct InvalidLlm(String);

impl BenchLlm {
    /// One that is to be started and was given no number gets as many slots as there are workers.
    #[must_use]
    pub fn with_slots(self, workers: usize) -> BenchLlm {
        match self {
            BenchLlm::Simulated { latency, slots: None } => {
                BenchLlm::Simulated { latency, slots: Some(workers) }
            }
            other => other,
        }
    }

    /// How long a call takes, where that is known before.
    pub fn latency(&self) -> Option<Latency> {
        match self {
            BenchLlm::Simulated { latency, .. } => Some(*latency),
            BenchLlm::Configured | BenchLlm::Running(_) => None,
        }
    }

    /// Calls that are worked on at once, for this many workers.
    pub fn at_once(&self, workers: usize) -> usize {
        match self {
            BenchLlm::Simulated { slots: Some(slots), .. } => workers.min(*slots),
            _ => workers,
        }
    }
}

impl FromStr for BenchLlm {
    type Err = InvalidLlm;

    fn from_str(text: &str) -> Result<Self, InvalidLlm> {
        let parsed = match text.split_once(':') {
            None if text == "configured" => Some(BenchLlm::Configured),
            None if text == "simulated" => {
                Some(BenchLlm::Simulated { latency: Latency::default(), slots: None })
            }
            Some(("simulated", url)) if url.starts_with("http://") => {
                Some(BenchLlm::Running(url.trim_end_matches('/').to_owned()))
            }
            Some(("simulated", how)) => simulated(how),
            _ => None,
        };
        parsed.ok_or_else(|| InvalidLlm(text.to_owned()))
    }
}

fn simulated(how: &str) -> Option<BenchLlm> {
    let (latency, slots) = match how.split_once(',') {
        Some((latency, slots)) => (latency, Some(slots.trim().parse().ok().filter(|slots| *slots > 0)?)),
        None => (how, None),
    };
    Some(BenchLlm::Simulated { latency: latency.parse().ok()?, slots })
}

impl fmt::Display for BenchLlm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchLlm::Configured => f.write_str("the configured one"),
            BenchLlm::Simulated { latency, slots: Some(slots) } => {
                write!(f, "simulated, {latency} a call, {slots} slots")
            }
            BenchLlm::Simulated { latency, slots: None } => write!(f, "simulated, {latency} a call"),
            BenchLlm::Running(url) => write!(f, "simulated, at {url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_form_is_read() {
        let constant = |n| Latency::Constant(Duration::from_millis(n));
        let llm = |latency, slots| Ok(BenchLlm::Simulated { latency, slots });
        assert_eq!("configured".parse(), Ok(BenchLlm::Configured));
        assert_eq!("simulated".parse(), llm(constant(887), None));
        assert_eq!("simulated:20ms".parse(), llm(constant(20), None));
        assert_eq!(
            "simulated:887ms~0.2,4".parse(),
            llm(Latency::LogNormal(Duration::from_millis(887), 0.2), Some(4))
        );
        let there: Result<BenchLlm, _> = "simulated:http://127.0.0.1:1/".parse();
        assert_eq!(there, Ok(BenchLlm::Running("http://127.0.0.1:1".into())));
        for text in
            ["", "ollama", "simulated:", "simulated:fast", "simulated:1s,0", "simulated:1s,x", "configured:1"]
        {
            assert!(text.parse::<BenchLlm>().unwrap_err().to_string().contains(&format!("'{text}'")));
        }
    }

    #[test]
    fn the_fewer_of_workers_and_slots_work_at_once() {
        let at_once = |text: &str| text.parse::<BenchLlm>().map(|llm| llm.at_once(10));
        assert_eq!(at_once("simulated:1s,4"), Ok(4));
        assert_eq!(at_once("simulated:1s,40"), Ok(10));
        assert_eq!((at_once("simulated:1s"), at_once("configured")), (Ok(10), Ok(10)));
        let said = "simulated:1s".parse::<BenchLlm>().map(|llm| llm.with_slots(7).to_string());
        assert_eq!(said, Ok("simulated, 1000ms a call, 7 slots".to_owned()));
    }
}
