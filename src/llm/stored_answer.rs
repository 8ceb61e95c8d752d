//! An answer as bytes, for the answer cache. Only answers that were usable are written.

use super::Labels;
use crate::chunk::Cpesh;
use crate::tmd::{AxisConfidence, Tmd};
use serde::{Deserialize, Serialize};

/// The layout; a missing field makes bytes of another version unreadable.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAnswer {
    codes: [u8; 3],
    confidence: Option<[f32; 3]>,
    cpesh: Option<Cpesh>,
}

/// The bytes of an answer; `None` when its CPESH parts were not usable, because another call may give better ones.
pub fn encode(labels: &Labels) -> Option<Vec<u8>> {
    let cpesh = match &labels.cpesh {
        Some(Err(_)) => return None,
        Some(Ok(cpesh)) => Some(cpesh.clone()),
        None => None,
    };
    let confidence = labels.confidence.map(|sure| [sure.domain, sure.task, sure.modifier]);
    let Labels { tmd, .. } = labels;
    let answer = StoredAnswer { codes: [tmd.domain(), tmd.task(), tmd.modifier()], confidence, cpesh };
    serde_json::to_vec(&answer).ok()
}

/// The inverse of [`encode`]; `None` for other bytes.
pub fn decode(bytes: &[u8]) -> Option<Labels> {
    let StoredAnswer { codes: [domain, task, modifier], confidence, cpesh } =
        serde_json::from_slice(bytes).ok()?;
    let tmd = Tmd::new(domain, task, modifier).ok()?;
    let confidence = confidence.map(|[domain, task, modifier]| AxisConfidence { domain, task, modifier });
    Some(Labels { tmd, confidence, cpesh: cpesh.map(Ok) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::CpeshFailure;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let tmd = Tmd::new(9, 31, 63).unwrap();
        let confidence = Some(AxisConfidence { domain: 0.25, task: 1.0, modifier: 1e-9 });
        let parts = Cpesh { concept_text: Some("A \"concept\".".to_owned()), ..Cpesh::default() };
        for cpesh in [None, Some(Ok(parts))] {
            for confidence in [None, confidence] {
                let labels = Labels { tmd, confidence, cpesh: cpesh.clone() };
                assert_eq!(decode(&encode(&labels).unwrap()), Some(labels));
            }
        }
        for wrong in ["", "{}", r#"{"codes":[16,0,0],"confidence":null,"cpesh":null}"#] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
        let failed = Labels { tmd, confidence, cpesh: Some(Err(CpeshFailure::Missing)) };
        assert_eq!(encode(&failed), None);
    }
}
