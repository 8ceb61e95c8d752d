//! The answers of the router's calls: the fields of the old router, and where the codes came from.

use crate::chunk::FoundCodes;
use crate::http::error::ApiError;
use crate::router::{ChosenLane, SpecialistLane};
use crate::tmd::{Axis, AxisConfidence, Tmd};
use serde::Serialize;
use serde_json::Value;

/// The codes of a concept.
#[derive(Debug, Serialize)]
pub struct ConceptCodes<'a> {
    concept_text: &'a str,
    domain_code: u8,
    domain_name: &'static str,
    task_code: u8,
    modifier_code: u8,
    #[serde(flatten)]
    provenance: CodeProvenance,
}

/// Where codes came from; not in the answers of the old router, whose failures looked like codes.
#[derive(Debug, Serialize)]
struct CodeProvenance {
    tmd_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmd_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmd_failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmd_confidence: Option<AxisConfidence>,
}

/// The lane of a triple.
#[derive(Debug, Serialize)]
pub struct LaneFields {
    lane_model: &'static str,
    lane_port: u16,
    specialist_prompt_id: String,
    temperature: f64,
    max_tokens: u32,
    is_fallback: bool,
}

/// The answer of `POST /route`.
#[derive(Debug, Serialize)]
pub struct Routed<'a> {
    #[serde(flatten)]
    codes: ConceptCodes<'a>,
    #[serde(flatten)]
    lane: LaneFields,
    cache_hit: bool,
}

/// The answer of `POST /select-lane`.
#[derive(Debug, Serialize)]
pub struct SelectedLane {
    domain_code: u8,
    domain_name: &'static str,
    task_code: u8,
    modifier_code: u8,
    #[serde(flatten)]
    lane: LaneFields,
}

/// A concept of a batch that has no codes: its answer stands in the place of those codes.
#[derive(Debug, Serialize)]
pub struct Unrouted<'a> {
    concept_text: &'a str,
    error: Value,
}

impl<'a> ConceptCodes<'a> {
    /// The codes with their provenance.
    pub fn new(concept_text: &'a str, found: &FoundCodes) -> ConceptCodes<'a> {
        let tmd = found.tmd;
        let provenance = CodeProvenance {
            tmd_source: found.source.kind(),
            tmd_model: found.source.model().map(str::to_owned),
            tmd_failure: found.source.failure().map(str::to_owned),
            tmd_confidence: found.confidence,
        };
        ConceptCodes {
            concept_text,
            domain_code: tmd.domain(),
            domain_name: tmd.name(Axis::Domain),
            task_code: tmd.task(),
            modifier_code: tmd.modifier(),
            provenance,
        }
    }
}

impl LaneFields {
    fn new(tmd: Tmd, chosen: ChosenLane) -> LaneFields {
        let ChosenLane { lane, is_fallback } = chosen;
        LaneFields {
            lane_model: lane.model,
            lane_port: lane.port,
            specialist_prompt_id: SpecialistLane::prompt_id(tmd),
            temperature: lane.temperature,
            max_tokens: lane.max_tokens,
            is_fallback,
        }
    }
}

impl<'a> Routed<'a> {
    /// Codes and lane of a concept; `cache_hit` says whether they were known.
    pub fn new(concept_text: &'a str, found: &FoundCodes, chosen: ChosenLane, cache_hit: bool) -> Routed<'a> {
        let lane = LaneFields::new(found.tmd, chosen);
        Routed { codes: ConceptCodes::new(concept_text, found), lane, cache_hit }
    }
}

impl SelectedLane {
    /// The lane of a triple.
    pub fn new(tmd: Tmd, chosen: ChosenLane) -> SelectedLane {
        SelectedLane {
            domain_code: tmd.domain(),
            domain_name: tmd.name(Axis::Domain),
            task_code: tmd.task(),
            modifier_code: tmd.modifier(),
            lane: LaneFields::new(tmd, chosen),
        }
    }
}

impl<'a> Unrouted<'a> {
    /// The error of one concept.
    pub fn new(concept_text: &'a str, error: &ApiError) -> Unrouted<'a> {
        Unrouted { concept_text, error: error.object() }
    }
}
