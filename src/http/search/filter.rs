//! The filter of a search, as clients write it: fields with one value or a list of them, combined by `and`, `or`, `not`.

use crate::chunk::scalar_text;
use crate::error_code::ErrorCode;
use crate::filter::{Filter, Term, TermField};
use crate::http::error::ApiError;
use crate::http::parameters::{check_name, quoted};
use crate::tmd::Axis;
use crate::wire::{Fields, Name, OneOrMany};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Conditions that hold together. Of a list of values one has to match.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireFilter {
    // Codes, or their canonical names.
    domain: Option<OneOrMany<Name>>,
    task: Option<OneOrMany<Name>>,
    modifier: Option<OneOrMany<Name>>,
    dataset_source: Option<OneOrMany<Name>>,
    document_id: Option<OneOrMany<Name>>,
    source_document: Option<OneOrMany<Name>>,
    created_at: Option<Fields<WireTimes>>,
    metadata: Option<Map<String, Value>>,
    and: Option<Vec<Fields<WireFilter>>>,
    or: Option<Vec<Fields<WireFilter>>>,
    not: Option<Box<Fields<WireFilter>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTimes {
    from: Option<String>,
    until: Option<String>,
}

/// The most values and conditions in a filter: each is looked up in every block of rows.
const MAX_FILTER_SIZE: usize = 1024;

/// The condition that the filter of a search means.
///
/// # Errors
/// 422 with the field in `param`.
pub(super) fn read_filter(wire: WireFilter) -> Result<Filter, ApiError> {
    let filter = filter(wire)?;
    let size = filter.size();
    if size > MAX_FILTER_SIZE {
        let message = format!(
            "filter: expected at most {MAX_FILTER_SIZE} values and conditions, received {size}; search in parts, or \
             mark the chunks by a value of their metadata"
        );
        return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("filter"));
    }
    Ok(filter)
}

/// The condition of a filter or of one in it.
fn filter(wire: WireFilter) -> Result<Filter, ApiError> {
    let WireFilter { domain, task, modifier, dataset_source, document_id, source_document, .. } = wire;
    let mut conditions = Vec::new();
    for (codes, axis, field) in [
        (domain, Axis::Domain, TermField::Domain),
        (task, Axis::Task, TermField::Task),
        (modifier, Axis::Modifier, TermField::Modifier),
    ] {
        if let Some(OneOrMany(labels)) = codes {
            let codes = labels.iter().map(|Name(label)| Ok(Term::new(field, code(label, axis)?)));
            conditions.push(Filter::Has(codes.collect::<Result<_, ApiError>>()?));
        }
    }
    for (names, param, field) in [
        (dataset_source, "filter.dataset_source", TermField::Dataset),
        (document_id, "filter.document_id", TermField::Document),
        (source_document, "filter.source_document", TermField::SourceDocument),
    ] {
        if let Some(OneOrMany(names)) = names {
            let terms = names.iter().map(|Name(name)| {
                check_name(param, name)?;
                Ok(Term::new(field, name))
            });
            conditions.push(Filter::Has(terms.collect::<Result<_, ApiError>>()?));
        }
    }
    if let Some(Fields(WireTimes { from, until })) = wire.created_at {
        let from = from.map_or(Ok(i64::MIN), |text| time("filter.created_at.from", &text))?;
        let until = until.map_or(Ok(i64::MAX), |text| time("filter.created_at.until", &text))?;
        conditions.push(Filter::Stored { from, until });
    }
    for (name, values) in wire.metadata.into_iter().flatten() {
        let values = if let Value::Array(values) = values { values } else { vec![values] };
        let terms = values.iter().map(|value| metadata_term(&name, value)).collect::<Result<_, _>>()?;
        conditions.push(Filter::Has(terms));
    }
    let all = |filters: Vec<Fields<WireFilter>>| {
        let filters = filters.into_iter().map(|Fields(inner)| filter(inner));
        filters.collect::<Result<Vec<Filter>, ApiError>>()
    };
    if let Some(filters) = wire.and {
        conditions.push(Filter::All(all(filters)?));
    }
    if let Some(filters) = wire.or {
        conditions.push(Filter::Any(all(filters)?));
    }
    if let Some(inner) = wire.not {
        let Fields(inner) = *inner;
        conditions.push(Filter::Not(Box::new(filter(inner)?)));
    }
    Ok(Filter::All(conditions))
}

/// The code that a label names.
fn code(label: &str, axis: Axis) -> Result<u8, ApiError> {
    axis.code_of(label).ok_or_else(|| {
        let (received, last, names) = (quoted(label), axis.len() - 1, axis.names().join(", "));
        let message = format!(
            "filter.{axis}: expected a code from 0 to {last} or one of these names: {names}; received '{received}'"
        );
        ApiError::new(ErrorCode::InvalidQuery, message).param(format!("filter.{axis}"))
    })
}

fn metadata_term(name: &str, value: &Value) -> Result<Term, ApiError> {
    let text = scalar_text(value).ok_or_else(|| {
        let message = format!(
            "filter.metadata: expected a text, a number, a boolean, or a list of them for `{}`",
            quoted(name)
        );
        ApiError::new(ErrorCode::WrongType, message).param("filter.metadata")
    })?;
    Ok(Term::new(TermField::Metadata(name), text))
}

/// Microseconds since 1970 of a time or of the beginning of a day in UTC.
fn time(param: &'static str, text: &str) -> Result<i64, ApiError> {
    let day = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    let time = text.parse::<DateTime<Utc>>().or_else(|_| text.parse().map(day));
    time.map(|time| time.timestamp_micros()).map_err(|_| {
        let message = format!(
            "{param}: expected a time like 2026-05-31T12:00:00Z or a day like 2026-05-31, received '{}'",
            quoted(text)
        );
        ApiError::new(ErrorCode::InvalidQuery, message).param(param)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Filter, ApiError> {
        let Fields(wire) = serde_json::from_value(value).unwrap();
        filter(wire)
    }

    fn has(field: TermField<'_>, values: &[&str]) -> Filter {
        Filter::Has(values.iter().map(|value| Term::new(field, value)).collect())
    }

    #[test]
    fn a_label_is_a_code_or_a_name() {
        let code = |label: &str| code(label, Axis::Domain).ok();
        assert_eq!(
            [code("3"), code(" 003 "), code("15"), code("16"), code("-1")],
            [Some(3), Some(3), Some(15), None, None]
        );
        let name = Axis::Domain.names()[2];
        assert_eq!([code(name), code(&name.to_uppercase()), code("no such label")], [Some(2), Some(2), None]);
    }

    #[test]
    fn values_lists_and_their_combinations() {
        assert!(read(json!({})).unwrap().is_everything());
        let (domain, dataset) = (has(TermField::Domain, &["3", "1"]), has(TermField::Dataset, &["7"]));
        let both = read(json!({"domain": [3, Axis::Domain.names()[1]], "dataset_source": 7})).unwrap();
        assert_eq!(both, Filter::All(vec![domain, dataset]));
        let lang = has(TermField::Metadata("lang"), &["de", "7", "true"]);
        let not = read(json!({"not": {"metadata": {"lang": ["de", 7.0, true]}}})).unwrap();
        assert_eq!(not, Filter::All(vec![Filter::Not(Box::new(Filter::All(vec![lang])))]));
        let none = read(json!({"or": []})).unwrap();
        assert_eq!(none, Filter::All(vec![Filter::Any(vec![])]));
        let day = 86_400_000_000;
        let times = read(json!({"created_at": {"from": "1970-01-02", "until": "1970-01-03T01:00:00+01:00"}}));
        assert_eq!(times.unwrap(), Filter::All(vec![Filter::Stored { from: day, until: 2 * day }]));
    }

    #[test]
    fn the_values_of_a_filter_are_bounded() {
        let list = |values: usize| {
            let list: Vec<usize> = (0..values).collect();
            let Fields(wire) = serde_json::from_value(json!({ "or": [{ "document_id": list }] })).unwrap();
            read_filter(wire)
        };
        // Three conditions around them.
        assert_eq!(list(MAX_FILTER_SIZE - 3).unwrap().size(), MAX_FILTER_SIZE);
        assert_eq!(list(MAX_FILTER_SIZE - 2).unwrap_err().code(), ErrorCode::InvalidQuery);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for bad in [
            json!({"domain": [1, 99]}),
            json!({"metadata": {"a": {"b": 1}}}),
            json!({"metadata": {"a": [null]}}),
            json!({"created_at": {"from": "yesterday"}}),
            json!({"and": [{"or": [{"document_id": "a\u{0}"}]}]}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        assert!(serde_json::from_value::<Fields<WireFilter>>(json!({"color": 1})).is_err());
    }
}
