//! Fields of a chunk that a service gave it before, and that are sent again with it: where its codes come from, and its
//! vector.

use super::bounded::BoundedList;
use super::shape::Fields;
use super::values::{AnyNumber, Name, Truth, WholeNumber};
use crate::chunk::{Provenance, VectorSource, floats_of_base64};
use crate::error_code::ErrorCode;
use crate::model::ModelIdentity;
use crate::rejection::Rejection;
use crate::tmd::AxisConfidence;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor, value::SeqAccessDeserializer};
use std::fmt;
use std::time::Duration;

/// The most numbers of a vector that are read.
const MAX_DIMS: usize = 16 * 1024;

/// The fields that say where the codes come from.
#[derive(Debug, Default)]
pub(super) struct WireProvenance {
    pub(super) source: Option<String>,
    pub(super) model: Option<Name>,
    pub(super) failure: Option<Name>,
    pub(super) confidence: Option<Fields<WireConfidence>>,
    pub(super) took_us: Option<WholeNumber>,
}

/// The confidence in each of the three codes.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireConfidence {
    domain: f32,
    task: f32,
    modifier: f32,
}

impl WireProvenance {
    /// The provenance, if the client names a source.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidProvenance`].
    pub(super) fn check(self) -> Result<Option<Provenance>, Rejection> {
        let Some(source) = self.source else {
            let others = [
                ("tmd_model", self.model.is_some()),
                ("tmd_failure", self.failure.is_some()),
                ("tmd_confidence", self.confidence.is_some()),
                ("tmd_took_us", self.took_us.is_some()),
            ];
            let Some((field, _)) = others.into_iter().find(|(_, there)| *there) else { return Ok(None) };
            let message = format!("{field} is given without tmd_source");
            return Err(Rejection::new(ErrorCode::InvalidProvenance, message).param(field));
        };
        let took = self.took_us.map(|WholeNumber(us)| {
            let message = format!("tmd_took_us: expected 0 or more, received {us}");
            let negative = |_| Rejection::new(ErrorCode::InvalidProvenance, message).param("tmd_took_us");
            u64::try_from(us).map(Duration::from_micros).map_err(negative)
        });
        let confidence = self.confidence.map(|Fields(WireConfidence { domain, task, modifier })| {
            AxisConfidence { domain, task, modifier }
        });
        let name = |name: &Option<Name>| name.as_ref().map(|Name(name)| name.clone());
        let (model, failure) = (name(&self.model), name(&self.failure));
        Provenance::new(&source, model.as_deref(), failure.as_deref(), confidence, took.transpose()?)
            .map(Some)
    }
}

/// The fields of a vector that was made before.
#[derive(Debug, Default)]
pub(super) struct WireVector {
    pub(super) model: Option<Name>,
    pub(super) values: Option<VectorValues>,
    pub(super) truncated: Option<Truth>,
    pub(super) unread: Option<AnyNumber>,
}

impl WireVector {
    /// Whether there is a vector, and it is said whose it is. Without that it means nothing to the service.
    pub(super) fn is_whole(&self) -> bool {
        self.model.is_some() && self.values.is_some()
    }

    /// Whether all of its fields that were sent are null.
    pub(super) fn is_absent(&self) -> bool {
        let WireVector { model, values, truncated, unread } = self;
        model.is_none() && values.is_none() && truncated.is_none() && unread.is_none()
    }

    /// Where the vector of the chunk comes from.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidVector`].
    pub(super) fn check(self, store: &ModelIdentity) -> Result<VectorSource, Rejection> {
        let (Some(Name(model)), Some(VectorValues(values))) = (self.model, self.values) else {
            return Ok(VectorSource::Text);
        };
        let truncated = self.truncated.is_some_and(|Truth(truncated)| truncated);
        let unread = self.unread.map(|AnyNumber(share)| share as f32);
        VectorSource::given(&model, values, (truncated, unread), store)
    }
}

/// The numbers of a vector: a list, or base64 of little-endian f32. Each number is read as the f32 that is nearest to
/// its text: by way of a wider number, the last bit may be another one.
#[derive(Debug)]
pub(super) struct VectorValues(Vec<f32>);

#[cfg(test)]
impl VectorValues {
    /// The bits of each number.
    pub(super) fn bits(&self) -> Vec<u32> {
        self.0.iter().map(|x| x.to_bits()).collect()
    }
}

impl<'de> Deserialize<'de> for VectorValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor).map(VectorValues)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Vec<f32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, or base64 of little-endian 32-bit floats")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<f32>, A::Error> {
        let list = BoundedList::<f32, MAX_DIMS>::deserialize(SeqAccessDeserializer::new(list))?;
        if list.received > MAX_DIMS {
            let message = format_args!("expected at most {MAX_DIMS} numbers, received {}", list.received);
            return Err(A::Error::custom(message));
        }
        Ok(list.items)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<f32>, E> {
        let floats = floats_of_base64(text).filter(|floats| floats.len() <= MAX_DIMS);
        floats.ok_or_else(|| E::invalid_type(serde::de::Unexpected::Str(text), &self))
    }
}
