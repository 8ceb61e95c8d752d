//! What applies to all chunks of a request: fields of a JSON body, or query parameters. Both may be there; a field of
//! the body wins.

use super::shape::{ShapeError, read_value};
use super::unknown::UnknownFieldPolicy;
use super::values::{AnyNumber, Name, Truth, one_of};
use super::words::quoted;
use crate::chunk::{BatchId, LabelChoice, OnConflict, check_name, check_not_blank};
use crate::error_code::ErrorCode;
use crate::model::ModelIdentity;
use crate::rejection::Rejection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

/// The options that a request gives.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionFields {
    dataset_source: Option<Name>,
    batch_id: Option<Name>,
    skip_cpesh: Option<Truth>,
    chunking_time_ms: Option<AnyNumber>,
    on_conflict: Option<ConflictOption>,
    labels: Option<LabelsOption>,
    unknown_fields: Option<UnknownFieldPolicy>,
}

/// [`OnConflict`] by its name.
#[derive(Debug, Clone, Copy)]
struct ConflictOption(OnConflict);

impl<'de> Deserialize<'de> for ConflictOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words =
            [("error", OnConflict::Error), ("keep", OnConflict::Keep), ("replace", OnConflict::Replace)];
        one_of(deserializer, &words).map(ConflictOption)
    }
}

/// [`LabelChoice`] by its name.
#[derive(Debug, Clone, Copy)]
struct LabelsOption(LabelChoice);

impl<'de> Deserialize<'de> for LabelsOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &LabelChoice::NAMED).map(LabelsOption)
    }
}

impl OptionFields {
    /// The names of all options.
    pub const NAMES: [&str; 7] = [
        "dataset_source",
        "batch_id",
        "skip_cpesh",
        "chunking_time_ms",
        "on_conflict",
        "labels",
        "unknown_fields",
    ];

    /// Reads the JSON value of the option with this name.
    ///
    /// # Errors
    /// A value of the wrong type; a name that is no option.
    pub(super) fn read(&mut self, name: &str, json: &[u8]) -> Result<(), ShapeError> {
        match name {
            "dataset_source" => self.dataset_source = read_option(json)?,
            "batch_id" => self.batch_id = read_option(json)?,
            "skip_cpesh" => self.skip_cpesh = read_option(json)?,
            "chunking_time_ms" => self.chunking_time_ms = read_option(json)?,
            "on_conflict" => self.on_conflict = read_option(json)?,
            "labels" => self.labels = read_option(json)?,
            "unknown_fields" => self.unknown_fields = read_option(json)?,
            _ => {
                let names = Self::NAMES.join(", ");
                let hint = if name == "text" { "; put a chunk into the array `chunks`" } else { "" };
                let message =
                    format!("unknown field `{}`, expected one of chunks, {names}{hint}", quoted(name));
                return Err(ShapeError::plain(ErrorCode::UnknownField, message));
            }
        }
        Ok(())
    }

    /// These options, and for those that are absent the others.
    #[must_use]
    pub fn or(self, others: OptionFields) -> OptionFields {
        OptionFields {
            dataset_source: self.dataset_source.or(others.dataset_source),
            batch_id: self.batch_id.or(others.batch_id),
            skip_cpesh: self.skip_cpesh.or(others.skip_cpesh),
            chunking_time_ms: self.chunking_time_ms.or(others.chunking_time_ms),
            on_conflict: self.on_conflict.or(others.on_conflict),
            labels: self.labels.or(others.labels),
            unknown_fields: self.unknown_fields.or(others.unknown_fields),
        }
    }

    /// The options of a request that replaces a document: those of the query, and for those that are absent the ones of
    /// the body. What is stored is replaced.
    ///
    /// # Errors
    /// A dataset of the body that is not that of the query; another `on_conflict`.
    pub fn of_replacement(self, query: OptionFields) -> Result<OptionFields, Rejection> {
        if let (Some(Name(body)), Some(Name(query))) = (&self.dataset_source, &query.dataset_source)
            && body != query
        {
            let message = format!(
                "dataset_source: expected '{}', as in the query, received '{}'; leave it out of the body",
                quoted(query),
                quoted(body)
            );
            return Err(Rejection::new(ErrorCode::OtherDocument, message).param("dataset_source"));
        }
        let others = [query.on_conflict, self.on_conflict].into_iter().flatten();
        if let Some(ConflictOption(other)) = others.into_iter().find(|option| option.0 != OnConflict::Replace)
        {
            let message = format!(
                "on_conflict: a document is replaced, so expected replace or nothing, received {}",
                format!("{other:?}").to_lowercase()
            );
            return Err(Rejection::new(ErrorCode::InvalidQuery, message).param("on_conflict"));
        }
        Ok(OptionFields { on_conflict: Some(ConflictOption(OnConflict::Replace)), ..query.or(self) })
    }

    /// The options with their defaults; `labels` is that of the service.
    pub fn complete(self, labels: LabelChoice) -> IngestOptions {
        IngestOptions {
            dataset_source: self.dataset_source.map_or_else(|| "user_input".to_owned(), |Name(name)| name),
            batch_id: self.batch_id.map(|Name(name)| name),
            skip_cpesh: self.skip_cpesh.is_some_and(|Truth(skip)| skip),
            chunking_time_ms: self.chunking_time_ms.map(|AnyNumber(time)| time),
            on_conflict: self.on_conflict.map_or_else(OnConflict::default, |ConflictOption(wanted)| wanted),
            labels: self.labels.map_or(labels, |LabelsOption(wanted)| wanted),
            unknown_fields: self.unknown_fields.unwrap_or_default(),
        }
    }
}

fn read_option<T: DeserializeOwned>(json: &[u8]) -> Result<Option<T>, ShapeError> {
    read_value(json)
}

/// What applies to all chunks of a request.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The dataset of the chunks; chunk ids are unique within a dataset.
    pub dataset_source: String,
    /// Stored with each chunk that has none of its own; not part of its content.
    pub batch_id: Option<String>,
    /// No language model is asked for the CPESH parts of these chunks.
    pub skip_cpesh: bool,
    /// Milliseconds that the client spent on chunking; repeated in the timings of the answer.
    pub chunking_time_ms: Option<f64>,
    /// What happens to a chunk whose id is stored with other content.
    pub on_conflict: OnConflict,
    /// Which codes the chunks are to have.
    pub labels: LabelChoice,
    /// What happens to chunks with unknown fields.
    pub unknown_fields: UnknownFieldPolicy,
}

impl IngestOptions {
    /// Checks the names that all chunks share and returns them. `model` is that of the store.
    ///
    /// # Errors
    /// A dataset or a batch id that no chunk could have.
    pub fn names(&self, model: Arc<ModelIdentity>) -> Result<SharedNames, Rejection> {
        check_name("dataset_source", &self.dataset_source)?;
        check_not_blank("dataset_source", &self.dataset_source)?;
        let batch_id = self.batch_id.as_deref();
        batch_id.map_or(Ok(()), |batch| check_name("batch_id", batch))?;
        Ok(SharedNames {
            dataset: self.dataset_source.as_str().into(),
            batch: batch_id.map(|id| BatchId::Named(id.into())),
            skip_cpesh: self.skip_cpesh,
            on_conflict: self.on_conflict,
            labels: self.labels,
            unknown_fields: self.unknown_fields,
            model,
        })
    }
}

/// What all chunks of a request share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedNames {
    /// The dataset of chunks that name none.
    pub dataset: Arc<str>,
    /// See [`IngestOptions::batch_id`].
    pub batch: Option<BatchId>,
    /// See [`IngestOptions::skip_cpesh`].
    pub skip_cpesh: bool,
    /// See [`IngestOptions::on_conflict`].
    pub on_conflict: OnConflict,
    /// See [`IngestOptions::labels`].
    pub labels: LabelChoice,
    /// See [`IngestOptions::unknown_fields`].
    pub unknown_fields: UnknownFieldPolicy,
    /// The model of the store: vectors of it are taken from chunks that bring them.
    pub model: Arc<ModelIdentity>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model() -> Arc<ModelIdentity> {
        let text = || "m".to_owned();
        Arc::new(ModelIdentity { name: text(), recipe: text(), fingerprint: text(), dims: 1 })
    }

    #[test]
    fn names_that_all_chunks_share_are_checked_once() {
        let names = |dataset: &str, batch: &str| {
            let fields = json!({ "dataset_source": dataset, "batch_id": batch });
            let options = serde_json::from_value::<OptionFields>(fields).unwrap().complete(LabelChoice::All);
            options.names(model()).map_err(|error| (error.code, error.param)).err()
        };
        assert_eq!(names("d", ""), None);
        assert_eq!(names("d", &"b".repeat(513)), Some((ErrorCode::InvalidName, Some("batch_id"))));
        assert_eq!(names(" ", "b"), Some((ErrorCode::InvalidName, Some("dataset_source"))));
        assert_eq!(names("d\0", "b"), Some((ErrorCode::NulCharacter, Some("dataset_source"))));
    }

    #[test]
    fn a_field_of_the_body_wins_and_null_is_absence() {
        let query: OptionFields = serde_json::from_value(
            json!({"dataset_source": "query", "batch_id": 7, "skip_cpesh": "True", "unknown_fields": "refuse"}),
        )
        .unwrap();
        let mut body = OptionFields::default();
        for (name, value) in
            [("dataset_source", "\"body\""), ("batch_id", "null"), ("chunking_time_ms", "1.5")]
        {
            body.read(name, value.as_bytes()).unwrap();
        }
        let options = body.or(query).complete(LabelChoice::All);
        assert_eq!((options.dataset_source.as_str(), options.batch_id.as_deref()), ("body", Some("7")));
        assert_eq!((options.skip_cpesh, options.chunking_time_ms), (true, Some(1.5)));
        assert_eq!(options.unknown_fields, UnknownFieldPolicy::Refuse);
        for (word, wanted) in [
            ("\"keep\"", OnConflict::Keep),
            ("\"Replace\"", OnConflict::Replace),
            ("null", OnConflict::Error),
        ] {
            let mut fields = OptionFields::default();
            fields.read("on_conflict", word.as_bytes()).unwrap();
            assert_eq!(fields.complete(LabelChoice::All).on_conflict, wanted);
        }
        assert_eq!(
            OptionFields::default().read("on_conflict", b"\"merge\"").unwrap_err().code,
            ErrorCode::InvalidQuery
        );
        for (word, wanted) in [("\"Client\"", LabelChoice::Client), ("null", LabelChoice::None)] {
            let mut fields = OptionFields::default();
            fields.read("labels", word.as_bytes()).unwrap();
            assert_eq!(fields.complete(LabelChoice::None).labels, wanted);
        }
        let defaults = OptionFields::default().complete(LabelChoice::All);
        assert_eq!((defaults.dataset_source.as_str(), defaults.skip_cpesh), ("user_input", false));
    }

    #[test]
    fn every_option_can_be_read_from_json_and_others_are_refused() {
        for name in OptionFields::NAMES {
            OptionFields::default().read(name, b"null").unwrap();
            let query: Result<OptionFields, _> = serde_json::from_value(json!({ name: null }));
            assert!(query.is_ok(), "{name}");
        }
        let error = OptionFields::default().read("mode", b"1").unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownField);
    }
}
