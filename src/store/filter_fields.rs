//! The columns of `chunks` from which the fields of a row in the index are made.

use super::StoreError;
use super::read::{tmd, unreadable};
use crate::filter::{FieldValues, FilterFields};
use chrono::{DateTime, Utc};
use diesel::sql_types::{Binary, Nullable, SmallInt, Text, Timestamptz};

/// The columns, of a table or alias `fields`.
pub(super) const FIELD_COLUMNS: &str = "fields.domain_code, fields.task_code, fields.modifier_code, \
    fields.dataset_source, fields.document_id, fields.source_document, fields.metadata::text, fields.created_at, \
    fields.text, fields.content_hash";
/// In place of the columns, in a row without any.
pub(super) const NO_FIELDS: &str = "NULL::smallint, NULL::smallint, NULL::smallint, NULL, NULL, NULL, NULL, \
    NULL::timestamptz, NULL, NULL::bytea";

/// The types of [`FIELD_COLUMNS`], and what is read.
pub(super) type FieldTypes = (
    Nullable<SmallInt>,
    Nullable<SmallInt>,
    Nullable<SmallInt>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Text>,
    Nullable<Binary>,
);
pub(super) type FieldsFound = (
    Option<i16>,
    Option<i16>,
    Option<i16>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<DateTime<Utc>>,
    Option<String>,
    Option<Vec<u8>>,
);

/// The fields of a row.
pub(super) fn filter_fields(found: FieldsFound) -> Result<FilterFields, StoreError> {
    let (domain, task, modifier, dataset, document, source_document, metadata, created_at, text, content) =
        found;
    let metadata = metadata.map(|json| serde_json::from_str(&json)).transpose();
    let metadata = metadata.map_err(|_| unreadable("metadata"))?;
    let content = content.ok_or_else(|| unreadable("content_hash"))?;
    Ok(FilterFields::new(FieldValues {
        tmd: tmd(domain, task, modifier)?,
        dataset: &dataset.ok_or_else(|| unreadable("dataset_source"))?,
        document: document.as_deref(),
        source_document: source_document.as_deref(),
        metadata: metadata.as_ref(),
        created_at: created_at.ok_or_else(|| unreadable("created_at"))?,
        text: text.as_deref().ok_or_else(|| unreadable("text"))?,
        content_hash: content.try_into().map_err(|_| unreadable("content_hash"))?,
    }))
}
