//! Rows on their way into the database: an array a column, as the statements of [`super::insert`] and
//! [`super::replace`] take them.

use super::StoreError;
use crate::chunk::{BatchId, Cpesh, EmbeddedChunk};
use crate::tmd::Axis;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::AstPass;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Float, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use std::io::Write;
use std::time::Duration;
use uuid::Uuid;

/// The columns of some rows.
pub(super) struct IncomingRows<'a> {
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
    cpe_ids: Vec<Uuid>,
    content_hashes: Vec<&'a [u8]>,
    details_hashes: Vec<&'a [u8]>,
    texts: Vec<&'a str>,
    document_ids: Vec<Option<&'a str>>,
    chunk_indexes: Vec<i64>,
    source_documents: Vec<Option<&'a str>>,
    article_titles: Vec<Option<&'a str>>,
    article_indexes: Vec<Option<i64>>,
    parent_cpe_ids: Vec<String>,
    child_cpe_ids: Vec<String>,
    batch_ids: Vec<Option<&'a str>>,
    metadata: Vec<Option<JsonText<'a>>>,
    domains: Vec<Option<i16>>,
    tasks: Vec<Option<i16>>,
    modifiers: Vec<Option<i16>>,
    tmd_sources: Vec<&'a str>,
    tmd_models: Vec<Option<&'a str>>,
    tmd_failures: Vec<Option<&'a str>>,
    domain_confidences: Vec<Option<f32>>,
    task_confidences: Vec<Option<f32>>,
    modifier_confidences: Vec<Option<f32>>,
    tmd_took_us: Vec<Option<i64>>,
    truncated: Vec<bool>,
    unread: Vec<Option<f32>>,
    created_at: Vec<DateTime<Utc>>,
    concept_texts: Vec<Option<&'a str>>,
    probe_questions: Vec<Option<&'a str>>,
    expected_answers: Vec<Option<&'a str>>,
    /// These two are lists exactly when the row gets CPESH parts, or the failure of their extraction.
    soft_negatives: Vec<Option<String>>,
    hard_negatives: Vec<Option<String>>,
    cpesh_sources: Vec<Option<&'a str>>,
    cpesh_models: Vec<Option<&'a str>>,
    cpesh_took_us: Vec<Option<i64>>,
    cpesh_failures: Vec<Option<&'a str>>,
    vectors: Vec<LittleEndian<'a>>,
    question_vectors: Vec<Option<LittleEndian<'a>>>,
}

impl<'a> IncomingRows<'a> {
    pub(super) fn new(rows: &[&'a EmbeddedChunk]) -> Self {
        fn column<'a, T>(rows: &[&'a EmbeddedChunk], field: impl Fn(&'a EmbeddedChunk) -> T) -> Vec<T> {
            rows.iter().map(|row| field(row)).collect()
        }
        fn part(row: &EmbeddedChunk, field: impl Fn(&Cpesh) -> Option<&String>) -> Option<&str> {
            row.extraction.parts(&row.chunk).and_then(field).map(String::as_str)
        }
        let code = |row: &EmbeddedChunk, axis| Some(i16::from(row.tagging.tmd?.code(axis)));
        let sure = |row: &EmbeddedChunk| row.tagging.confidence;
        let list = |row: &EmbeddedChunk, field: fn(&Cpesh) -> &Vec<String>| {
            row.extraction.source()?;
            Some(array_literal(row.extraction.parts(&row.chunk).map_or(&[], |cpesh| field(cpesh))))
        };
        fn micros(took: Option<Duration>) -> Option<i64> {
            Some(i64::try_from(took?.as_micros()).unwrap_or(i64::MAX))
        }
        IncomingRows {
            datasets: column(rows, |row| &*row.chunk.key.dataset),
            ids: column(rows, |row| &*row.chunk.key.id),
            cpe_ids: column(rows, |row| row.chunk.cpe_id),
            content_hashes: column(rows, |row| row.chunk.content_hash.as_slice()),
            details_hashes: column(rows, |row| row.chunk.details_hash.as_slice()),
            texts: column(rows, |row| row.chunk.text.as_str()),
            document_ids: column(rows, |row| row.chunk.placement.document_id.as_deref()),
            chunk_indexes: column(rows, |row| row.chunk.placement.chunk_index),
            source_documents: column(rows, |row| row.chunk.placement.source_document.as_deref()),
            article_titles: column(rows, |row| row.chunk.placement.article_title.as_deref()),
            article_indexes: column(rows, |row| row.chunk.placement.article_index),
            parent_cpe_ids: column(rows, |row| array_literal(&row.chunk.placement.parent_cpe_ids)),
            child_cpe_ids: column(rows, |row| array_literal(&row.chunk.placement.child_cpe_ids)),
            batch_ids: column(rows, |row| row.chunk.batch.as_ref().map(BatchId::as_str)),
            metadata: column(rows, |row| row.chunk.metadata.as_ref().map(|json| JsonText(json.as_str()))),
            domains: column(rows, |row| code(row, Axis::Domain)),
            tasks: column(rows, |row| code(row, Axis::Task)),
            modifiers: column(rows, |row| code(row, Axis::Modifier)),
            tmd_sources: column(rows, |row| row.tagging.source.kind()),
            tmd_models: column(rows, |row| row.tagging.source.model()),
            tmd_failures: column(rows, |row| row.tagging.source.failure()),
            domain_confidences: column(rows, |row| sure(row).map(|c| c.domain)),
            task_confidences: column(rows, |row| sure(row).map(|c| c.task)),
            modifier_confidences: column(rows, |row| sure(row).map(|c| c.modifier)),
            tmd_took_us: column(rows, |row| micros(row.tagging.took)),
            truncated: column(rows, |row| row.embedding.truncated),
            unread: column(rows, |row| row.embedding.unread),
            created_at: column(rows, |row| row.chunk.received_at),
            concept_texts: column(rows, |row| part(row, |cpesh| cpesh.concept_text.as_ref())),
            probe_questions: column(rows, |row| part(row, |cpesh| cpesh.probe_question.as_ref())),
            expected_answers: column(rows, |row| part(row, |cpesh| cpesh.expected_answer.as_ref())),
            soft_negatives: column(rows, |row| list(row, |cpesh| &cpesh.soft_negatives)),
            hard_negatives: column(rows, |row| list(row, |cpesh| &cpesh.hard_negatives)),
            cpesh_sources: column(rows, |row| row.extraction.source()),
            cpesh_models: column(rows, |row| row.extraction.call().map(|call| &*call.model)),
            cpesh_took_us: column(rows, |row| micros(row.extraction.call()?.took)),
            cpesh_failures: column(rows, |row| row.extraction.failure()),
            vectors: column(rows, |row| LittleEndian(&row.embedding.vector)),
            question_vectors: column(rows, |row| row.question.as_deref().map(LittleEndian)),
        }
    }

    /// Writes `WITH incoming AS (..)`: the rows, the columns that `further` gives under these names, a value a row, and in
    /// the column `place` their position from 1.
    pub(super) fn walk<'b>(
        &'b self,
        mut out: AstPass<'_, 'b, Pg>,
        names: &str,
        further: impl FnOnce(AstPass<'_, 'b, Pg>) -> QueryResult<()>,
    ) -> QueryResult<()> {
        /// One further array of the `unnest`.
        macro_rules! array {
            ($kind:ty, $field:ident) => {
                out.push_sql(", ");
                out.push_bind_param::<Array<$kind>, _>(&self.$field)?;
            };
        }
        out.push_sql("WITH incoming AS MATERIALIZED (SELECT * FROM ROWS FROM (unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        array!(Text, ids);
        array!(SqlUuid, cpe_ids);
        array!(Binary, content_hashes);
        array!(Binary, details_hashes);
        array!(Text, texts);
        array!(Nullable<Text>, document_ids);
        array!(BigInt, chunk_indexes);
        array!(Nullable<Text>, source_documents);
        array!(Nullable<Text>, article_titles);
        array!(Nullable<BigInt>, article_indexes);
        array!(Text, parent_cpe_ids);
        array!(Text, child_cpe_ids);
        array!(Nullable<Text>, batch_ids);
        array!(Nullable<Jsonb>, metadata);
        array!(Nullable<SmallInt>, domains);
        array!(Nullable<SmallInt>, tasks);
        array!(Nullable<SmallInt>, modifiers);
        array!(Text, tmd_sources);
        array!(Nullable<Text>, tmd_models);
        array!(Nullable<Text>, tmd_failures);
        array!(Nullable<Float>, domain_confidences);
        array!(Nullable<Float>, task_confidences);
        array!(Nullable<Float>, modifier_confidences);
        array!(Nullable<BigInt>, tmd_took_us);
        array!(Bool, truncated);
        array!(Nullable<Float>, unread);
        array!(Timestamptz, created_at);
        array!(Nullable<Text>, concept_texts);
        array!(Nullable<Text>, probe_questions);
        array!(Nullable<Text>, expected_answers);
        array!(Nullable<Text>, soft_negatives);
        array!(Nullable<Text>, hard_negatives);
        array!(Nullable<Text>, cpesh_sources);
        array!(Nullable<Text>, cpesh_models);
        array!(Nullable<BigInt>, cpesh_took_us);
        array!(Nullable<Text>, cpesh_failures);
        array!(Binary, vectors);
        array!(Nullable<Binary>, question_vectors);
        out.push_sql("), ");
        further(out.reborrow())?;
        out.push_sql(COLUMNS);
        out.push_sql(names);
        out.push_sql(", place))");
        Ok(())
    }

    /// Writes the two arrays of the keys.
    pub(super) fn walk_keys<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)
    }
}

/// The row at this place of the batch, from 1.
pub(super) fn at_place<'a>(rows: &[&'a EmbeddedChunk], place: i64) -> Result<&'a EmbeddedChunk, StoreError> {
    let row = usize::try_from(place - 1).ok().and_then(|place| rows.get(place)).copied();
    row.ok_or(StoreError::Unreadable { problem: "place in the batch".to_owned() })
}

const COLUMNS: &str = "
) WITH ORDINALITY AS t (dataset_source, id, cpe_id, content_hash, details_hash, text, document_id, chunk_index,
    source_document, article_title, article_index, parent_cpe_ids, child_cpe_ids, batch_id, metadata,
    domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
    task_confidence, modifier_confidence, tmd_took_us, truncated, unread, created_at, concept_text,
    probe_question, expected_answer, soft_negatives, hard_negatives, cpesh_source, cpesh_model, cpesh_took_us,
    cpesh_failure, vector, question_vector, ";

/// A list as a PostgreSQL array literal, because `unnest` flattens an array of arrays.
pub(super) fn array_literal(values: &[String]) -> String {
    let quoted = values.iter().map(|v| format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// A vector as `bytea`: little-endian f32.
#[derive(Debug)]
pub(super) struct LittleEndian<'a>(pub(super) &'a [f32]);

/// JSON that is text already.
#[derive(Debug)]
pub(super) struct JsonText<'a>(pub(super) &'a str);

impl ToSql<Jsonb, Pg> for JsonText<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        // The version of the format, as PostgreSQL's jsonb_recv reads it, and the text.
        out.write_all(&[1])?;
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Binary, Pg> for LittleEndian<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let mut bytes = [0; 256];
        for floats in self.0.chunks(bytes.len() / 4) {
            for (four, float) in bytes.chunks_exact_mut(4).zip(floats) {
                four.copy_from_slice(&float.to_le_bytes());
            }
            out.write_all(&bytes[..4 * floats.len()])?;
        }
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_quoted() {
        let list =
            |values: &[&str]| array_literal(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&[]), "{}");
        assert_eq!(list(&["a", "", "NULL"]), r#"{"a","","NULL"}"#);
        assert_eq!(list(&[r#"a"b\c,{d}"#]), r#"{"a\"b\\c,{d}"}"#);
    }
}
