//! The columns of an exported table: what both formats have in common.

use super::error::ExportError;
use crate::chunk::{Cpesh, ExportRow, Extraction, ExtractionCall};
use crate::tmd::projection::{canonical_16d, ingest_16d, length, normalised};
use crate::tmd::{Axis, Tmd, packing};
use std::borrow::Cow;
use std::time::Duration;

/// The value of a column in one row.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnCell<'a> {
    /// The row has no value.
    Absent,
    /// A text in UTF-8.
    Text(Cow<'a, str>),
    /// A list of texts.
    Texts(&'a [String]),
    /// A whole number; of a time, the microseconds since 1970.
    Whole(i64),
    /// A 32-bit float.
    Real(f32),
    /// True, or false.
    Truth(bool),
    /// The numbers of a vector.
    Reals(Cow<'a, [f32]>),
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Texts in UTF-8.
    Text,
    /// A UUID as text of 36 characters.
    Uuid,
    /// Lists of texts.
    Texts,
    /// Whole numbers from 0 to 255.
    Byte,
    /// Whole numbers from 0 to 65,535.
    Short,
    /// Whole numbers of 64 bits.
    Whole,
    /// Single 32-bit floats.
    Real,
    /// Truth values, each true or false.
    Truth,
    /// Times in microseconds, UTC.
    Micros,
    /// Vectors of 32-bit floats, all of one length.
    Reals,
}

/// A column of an exported table.
#[derive(Debug)]
pub struct Column {
    /// Its name in Parquet, and in `--columns`.
    pub name: &'static str,
    /// The name of its array in NPZ.
    pub array: &'static str,
    /// The type of its values.
    pub kind: ColumnKind,
    /// Whether a row may have no value.
    pub optional: bool,
    /// Whether it is made of the vector of the row.
    pub of_vector: bool,
    /// Its value in a row.
    pub cell: for<'a> fn(&'a ExportRow) -> ColumnCell<'a>,
}

const fn column(
    name: &'static str,
    kind: ColumnKind,
    cell: for<'a> fn(&'a ExportRow) -> ColumnCell<'a>,
) -> Column {
    Column { name, array: name, kind, optional: false, of_vector: false, cell }
}

const fn optional(
    name: &'static str,
    kind: ColumnKind,
    cell: for<'a> fn(&'a ExportRow) -> ColumnCell<'a>,
) -> Column {
    Column { optional: true, ..column(name, kind, cell) }
}

const fn of_vector(
    name: &'static str,
    kind: ColumnKind,
    cell: for<'a> fn(&'a ExportRow) -> ColumnCell<'a>,
) -> Column {
    Column { of_vector: true, ..optional(name, kind, cell) }
}

/// The same under the name that readers of older NPZ files know.
const fn known_as(array: &'static str, column: Column) -> Column {
    Column { array, ..column }
}

/// Every column, in the order of a table.
pub const COLUMNS: &[Column] = &[
    column("id", ColumnKind::Text, |row| text(&row.id)),
    known_as(
        "cpe_ids",
        column("cpe_id", ColumnKind::Uuid, |row| ColumnCell::Text(Cow::Owned(row.cpe_id.to_string()))),
    ),
    column("dataset_source", ColumnKind::Text, |row| text(&row.dataset_source)),
    optional("document_id", ColumnKind::Text, |row| optional_text(&row.placement.document_id)),
    column("chunk_index", ColumnKind::Whole, |row| ColumnCell::Whole(row.placement.chunk_index)),
    column("text", ColumnKind::Text, |row| text(&row.text)),
    optional("source_document", ColumnKind::Text, |row| optional_text(&row.placement.source_document)),
    optional("article_title", ColumnKind::Text, |row| optional_text(&row.placement.article_title)),
    optional("article_index", ColumnKind::Whole, |row| {
        row.placement.article_index.map_or(ColumnCell::Absent, ColumnCell::Whole)
    }),
    column("parent_cpe_ids", ColumnKind::Texts, |row| ColumnCell::Texts(&row.placement.parent_cpe_ids)),
    column("child_cpe_ids", ColumnKind::Texts, |row| ColumnCell::Texts(&row.placement.child_cpe_ids)),
    optional("concept_text", ColumnKind::Text, |row| part(row, |cpesh| &cpesh.concept_text)),
    optional("probe_question", ColumnKind::Text, |row| part(row, |cpesh| &cpesh.probe_question)),
    optional("expected_answer", ColumnKind::Text, |row| part(row, |cpesh| &cpesh.expected_answer)),
    column("soft_negatives", ColumnKind::Texts, |row| {
        ColumnCell::Texts(row.parts().map_or(&[], |cpesh| &cpesh.soft_negatives))
    }),
    column("hard_negatives", ColumnKind::Texts, |row| {
        ColumnCell::Texts(row.parts().map_or(&[], |cpesh| &cpesh.hard_negatives))
    }),
    optional("cpesh_source", ColumnKind::Text, |row| match (&row.extracted, &row.cpesh) {
        (Some(extracted), _) => extracted.source().map_or(ColumnCell::Absent, text),
        (None, Some(_)) => text("client"),
        (None, None) => ColumnCell::Absent,
    }),
    optional("cpesh_model", ColumnKind::Text, |row| {
        call(row).map_or(ColumnCell::Absent, |call| text(&call.model))
    }),
    optional("cpesh_failure", ColumnKind::Text, |row| {
        row.extracted.as_ref().and_then(Extraction::failure).map_or(ColumnCell::Absent, text)
    }),
    optional("cpesh_took_us", ColumnKind::Whole, |row| {
        call(row).and_then(|call| call.took).map_or(ColumnCell::Absent, micros)
    }),
    optional("batch_id", ColumnKind::Text, |row| optional_text(&row.batch_id)),
    optional("metadata", ColumnKind::Text, |row| optional_text(&row.metadata)),
    optional("domain_code", ColumnKind::Byte, |row| code(row, Tmd::domain)),
    optional("task_code", ColumnKind::Byte, |row| code(row, Tmd::task)),
    optional("modifier_code", ColumnKind::Byte, |row| code(row, Tmd::modifier)),
    optional("domain", ColumnKind::Text, |row| code_name(row, Axis::Domain)),
    optional("task", ColumnKind::Text, |row| code_name(row, Axis::Task)),
    optional("modifier", ColumnKind::Text, |row| code_name(row, Axis::Modifier)),
    known_as("lane_indices", optional("lane_index", ColumnKind::Short, |row| code(row, packing::lane_index))),
    optional("tmd_bits_canonical", ColumnKind::Short, |row| code(row, packing::canonical_bits)),
    column("tmd_source", ColumnKind::Text, |row| text(row.tagging.source.kind())),
    optional("tmd_model", ColumnKind::Text, |row| {
        row.tagging.source.model().map_or(ColumnCell::Absent, text)
    }),
    optional("tmd_failure", ColumnKind::Text, |row| {
        row.tagging.source.failure().map_or(ColumnCell::Absent, text)
    }),
    optional("domain_confidence", ColumnKind::Real, |row| real(row.tagging.confidence.map(|c| c.domain))),
    optional("task_confidence", ColumnKind::Real, |row| real(row.tagging.confidence.map(|c| c.task))),
    optional("modifier_confidence", ColumnKind::Real, |row| real(row.tagging.confidence.map(|c| c.modifier))),
    optional("tmd_took_us", ColumnKind::Whole, |row| row.tagging.took.map_or(ColumnCell::Absent, micros)),
    column("truncated", ColumnKind::Truth, |row| ColumnCell::Truth(row.truncated)),
    optional("unread", ColumnKind::Real, |row| real(row.unread)),
    column("seq", ColumnKind::Whole, |row| ColumnCell::Whole(row.seq)),
    column("created_at", ColumnKind::Micros, |row| ColumnCell::Whole(row.created_at.timestamp_micros())),
    optional("tmd_dense", ColumnKind::Reals, |row| {
        row.tagging.tmd.map_or(ColumnCell::Absent, |tmd| reals(ingest_16d(tmd)))
    }),
    optional("tmd_dense_canonical", ColumnKind::Reals, |row| {
        row.tagging.tmd.map_or(ColumnCell::Absent, |tmd| reals(canonical_16d(tmd)))
    }),
    known_as(
        "vectors",
        of_vector("vector", ColumnKind::Reals, |row| {
            row.vector
                .as_deref()
                .map_or(ColumnCell::Absent, |vector| ColumnCell::Reals(Cow::Borrowed(vector)))
        }),
    ),
    of_vector("fused_vec", ColumnKind::Reals, |row| fused(row).map_or(ColumnCell::Absent, reals)),
    of_vector("fused_norm", ColumnKind::Real, |row| real(fused(row).map(|fused| length(&fused)))),
    of_vector("fused_vec_canonical", ColumnKind::Reals, |row| {
        let canonical = row.vector.as_ref().zip(row.tagging.tmd).map(|(vector, tmd)| {
            let fused: Vec<f32> = canonical_16d(tmd).into_iter().chain(vector.iter().copied()).collect();
            normalised(fused)
        });
        canonical.map_or(ColumnCell::Absent, reals)
    }),
];

/// The columns with these names in the order of a table; all of them without names. Those that are made of vectors only
/// where there are vectors.
///
/// # Errors
/// A name that is no column.
pub fn choose(names: &[String], with_vectors: bool) -> Result<Vec<&'static Column>, ExportError> {
    let known: Vec<&Column> = COLUMNS.iter().filter(|column| with_vectors || !column.of_vector).collect();
    let is_known = |name: &&String| known.iter().any(|column| column.name == **name);
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        let expected = known.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
        return Err(ExportError::UnknownColumn { name: name.clone(), expected });
    }
    let chosen = |column: &&Column| names.is_empty() || names.iter().any(|name| name == column.name);
    Ok(known.into_iter().filter(chosen).collect())
}

/// Concept, then encoding B, as the old ingest service wrote it; `None` without codes.
fn fused(row: &ExportRow) -> Option<Vec<f32>> {
    let (vector, tmd) = row.vector.as_ref().zip(row.tagging.tmd)?;
    Some(vector.iter().copied().chain(ingest_16d(tmd)).collect())
}

/// A number that is made of the codes.
fn code<N: Into<i64>>(row: &ExportRow, number: impl Fn(Tmd) -> N) -> ColumnCell<'_> {
    row.tagging.tmd.map_or(ColumnCell::Absent, |tmd| ColumnCell::Whole(number(tmd).into()))
}

fn code_name(row: &ExportRow, axis: Axis) -> ColumnCell<'_> {
    row.tagging.tmd.map_or(ColumnCell::Absent, |tmd| text(tmd.name(axis)))
}

fn text(text: &str) -> ColumnCell<'_> {
    ColumnCell::Text(Cow::Borrowed(text))
}

fn optional_text(value: &Option<String>) -> ColumnCell<'_> {
    value.as_deref().map_or(ColumnCell::Absent, text)
}

fn part(row: &ExportRow, part: impl Fn(&Cpesh) -> &Option<String>) -> ColumnCell<'_> {
    row.parts().and_then(|cpesh| part(cpesh).as_deref()).map_or(ColumnCell::Absent, text)
}

/// The call to a language model that extracted the parts.
fn call(row: &ExportRow) -> Option<&ExtractionCall> {
    row.extracted.as_ref().and_then(Extraction::call)
}

fn real(value: Option<f32>) -> ColumnCell<'static> {
    value.map_or(ColumnCell::Absent, ColumnCell::Real)
}

fn reals(vector: impl Into<Vec<f32>>) -> ColumnCell<'static> {
    ColumnCell::Reals(Cow::Owned(vector.into()))
}

fn micros(time: Duration) -> ColumnCell<'static> {
    ColumnCell::Whole(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}
