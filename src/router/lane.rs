//! The table of lanes. Pure.

use crate::tmd::{Axis, Tmd};

/// The model to which the concepts of a domain are sent, and how it is to be called. As in the old router, each model is
/// an Ollama server of its own on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpecialistLane {
    /// The name of the model on its server.
    pub model: &'static str,
    /// The port of the server.
    pub port: u16,
    /// The sampling temperature.
    pub temperature: f64,
    /// The most tokens of an answer.
    pub max_tokens: u32,
}

const TINYLLAMA: (&str, u16) = ("tinyllama:1.1b", 11435);
const PHI3: (&str, u16) = ("phi3:mini", 11436);
const GRANITE3: (&str, u16) = ("granite3-moe:1b", 11437);
/// The model and port that stand in for a specialist whose server is not there.
pub const FALLBACK: (&str, u16) = ("llama3.1:8b", 11434);

/// Model and port, temperature, most tokens: by the code of the domain.
const LANES: [((&str, u16), f64, u32); 16] = [
    (TINYLLAMA, 0.3, 200),
    (PHI3, 0.2, 200),
    (GRANITE3, 0.3, 200),
    (TINYLLAMA, 0.3, 200),
    (PHI3, 0.2, 200),
    (GRANITE3, 0.4, 200),
    (FALLBACK, 0.4, 250),
    (TINYLLAMA, 0.3, 200),
    (GRANITE3, 0.5, 250),
    (PHI3, 0.5, 200),
    (TINYLLAMA, 0.3, 200),
    (FALLBACK, 0.2, 250),
    (PHI3, 0.3, 200),
    (GRANITE3, 0.4, 200),
    (TINYLLAMA, 0.3, 200),
    (PHI3, 0.3, 200),
];

impl SpecialistLane {
    /// The lane of the domain of a triple.
    pub fn of(tmd: Tmd) -> SpecialistLane {
        // A triple is in range, and the table has as many lanes as there are domains.
        let ((model, port), temperature, max_tokens) = LANES[usize::from(tmd.domain()) % LANES.len()];
        SpecialistLane { model, port, temperature, max_tokens }
    }

    /// The name of the prompt of the lane of a triple.
    pub fn prompt_id(tmd: Tmd) -> String {
        format!("lane_specialist_{}", tmd.name(Axis::Domain).to_lowercase())
    }

    /// The lane with the fallback in the place of its own model.
    #[must_use]
    pub fn on_fallback(self) -> SpecialistLane {
        let (model, port) = FALLBACK;
        SpecialistLane { model, port, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_has_its_lane() {
        assert_eq!(LANES.len(), Axis::Domain.len());
        let lane = |domain: i64| SpecialistLane::of(Tmd::new(domain, 0, 0).unwrap());
        let law = lane(11);
        assert_eq!((law.model, law.port, law.temperature, law.max_tokens), ("llama3.1:8b", 11434, 0.2, 250));
        assert_eq!((lane(0).port, lane(15).model), (11435, "phi3:mini"));
        assert_eq!(SpecialistLane::prompt_id(Tmd::new(8, 0, 0).unwrap()), "lane_specialist_literature");
        let fallback = lane(8).on_fallback();
        assert_eq!((fallback.port, fallback.temperature, fallback.max_tokens), (11434, 0.5, 250));
    }
}
