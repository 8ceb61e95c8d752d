//! Exported files as others read them: the columns of a table, in Parquet and NPZ.

use crate::export::{exported, fill};
use crate::support::readers;
use crate::support::test_service::TestService;
use lnsp_ingest::chunk::ExportRow;
use lnsp_ingest::export::{COLUMNS, Column, ColumnCell};
use lnsp_ingest::store::Selection;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The rows of a store, in the order of an export.
async fn export_rows(service: &TestService) -> Vec<ExportRow> {
    let mut export = service.state.store.export(&Selection::default(), true).await.unwrap();
    let mut rows = Vec::new();
    while let Some(page) = export.next_page().await.unwrap() {
        rows.extend(page);
    }
    rows
}

#[actix_web::test]
async fn derived_columns_are_those_of_the_views_bit_for_bit() {
    let service = TestService::scripted().await;
    fill(&service).await;
    let exported = export_rows(&service).await;
    let known = ["tmd_dense", "tmd_dense_canonical", "fused_vec", "fused_norm", "fused_vec_canonical"];
    for name in known {
        let column = COLUMNS.iter().find(|column| column.name == name).unwrap();
        let view = format!(
            "SELECT cpe_id || ' ' || coalesce(translate({name}::text, '{{}}', '[]'), '') FROM cpe_vectors"
        );
        let view = service.database.texts(&view).await;
        assert_eq!(view.len(), exported.len());
        for line in view {
            let (id, values) = line.split_once(' ').unwrap();
            let row = exported.iter().find(|row| row.cpe_id.to_string() == id).unwrap();
            let values: Vec<u32> = values
                .trim_matches(['[', ']'])
                .split(',')
                .filter(|value| !value.is_empty())
                .map(|value| value.parse::<f32>().unwrap().to_bits())
                .collect();
            let ours: Vec<u32> = match (column.cell)(row) {
                ColumnCell::Real(value) => vec![value.to_bits()],
                ColumnCell::Reals(values) => values.iter().map(|value| value.to_bits()).collect(),
                ColumnCell::Absent if row.tagging.tmd.is_none() => Vec::new(),
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(ours, values, "{name} of {id}, codes {:?}", row.tagging.tmd);
        }
    }
    service.stop().await;
}

/// A cell as the readers print it.
fn printed(column: &Column, row: &ExportRow, lists_are_json: bool) -> Value {
    match (column.cell)(row) {
        ColumnCell::Absent => Value::Null,
        ColumnCell::Text(text) => json!(text),
        ColumnCell::Texts(texts) if lists_are_json => json!(json!(texts).to_string()),
        ColumnCell::Texts(texts) => json!(texts),
        ColumnCell::Whole(value) => json!(value),
        ColumnCell::Real(value) => json!(value.to_bits()),
        ColumnCell::Truth(value) => json!(value),
        ColumnCell::Reals(values) => json!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()),
    }
}

fn compare(file: &Path, rows: &[ExportRow], vector_model: Option<&str>) {
    let with_vectors = vector_model.is_some();
    let is_npz = file.extension().is_some_and(|extension| extension == "npz");
    let read = readers::read(file);
    let mut columns: Map<String, Value> = read["columns"].as_object().unwrap().clone();
    for column in COLUMNS.iter().filter(|column| with_vectors || !column.of_vector) {
        let name = if is_npz { column.array } else { column.name };
        let values =
            columns.remove(name).unwrap_or_else(|| panic!("{name} is missing in {}", file.display()));
        let mut expected: Vec<Value> = rows.iter().map(|row| printed(column, row, is_npz)).collect();
        let mut values = values.as_array().unwrap().clone();
        if name == "metadata" {
            // Equal as JSON.
            let parsed =
                |text: &Value| text.as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
            expected = expected.iter().map(parsed).collect();
            values = values.iter().map(parsed).collect();
        }
        for (number, (value, wanted)) in values.iter().zip(&expected).enumerate() {
            assert_eq!(value, wanted, "{name} of row {number} in {}", file.display());
        }
        assert_eq!(values.len(), expected.len(), "{name}");
    }
    assert_eq!(columns.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "columns that are not known");
    assert_eq!(read["vector_model"], vector_model.unwrap_or_default());
}

#[actix_web::test]
async fn numpy_and_pyarrow_read_every_column() {
    if !readers::installed("numpy_and_pyarrow_read_every_column") {
        return;
    }
    let service = TestService::scripted().await;
    fill(&service).await;
    // A row without a vector of the model, which only another program can make.
    service.database.run("SET session_replication_role = replica; DELETE FROM chunk_vectors WHERE item IN (SELECT item FROM chunks WHERE text = 'Fact 0.' OR id = 'own')").await;
    let rows = export_rows(&service).await;
    assert_eq!(rows.iter().filter(|row| row.vector.is_none()).count(), 2);
    let (dsn, fingerprint) = (service.database.dsn(), service.state.info.model.fingerprint.as_str());
    for source in [["--url", &service.url], ["--from", dsn]] {
        for format in ["parquet", "npz"] {
            for with_vectors in [true, false] {
                let vectors: &[&str] = if with_vectors { &["--with-vectors"] } else { &[] };
                let flags = [&source[..], &["--format", format], vectors].concat();
                let (_folder, file) = exported(&flags, &format!("chunks.{format}")).await;
                compare(&file, &rows, with_vectors.then_some(fingerprint));
            }
            // A store without rows, and some columns alone.
            let flags =
                [&source[..], &["--format", format, "--dataset", "none", "--columns", "text,seq"]].concat();
            let (_folder, file) = exported(&flags, &format!("empty.{format}")).await;
            assert_eq!(readers::read(&file)["columns"], json!({"text": [], "seq": []}));
        }
    }
    service.stop().await;
}
