//! A row of the old table `cpe_entry` as a chunk. Pure.
//!
//! The table was made and changed by many scripts: columns may be missing, `NULL`, or hold a list as text. What has a
//! field of its own in a chunk goes there; everything else that says something is kept in the metadata under the name of
//! its column.

use crate::chunk::MAX_NAME_BYTES;
use crate::tmd::Tmd;
use serde_json::{Map, Value};

/// Other packings of the three codes, which are the truth, and the vectors, which are made anew.
const DERIVED: [&str; 8] = [
    "tmd_bits",
    "tmd_lane",
    "lane_index",
    "fused_vec",
    "question_vec",
    "concept_vec",
    "tmd_dense",
    "fused_norm",
];

/// What became of the three codes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldCodes {
    /// The chunk has them.
    Taken,
    /// One or more are missing: the service gives them.
    Missing,
    /// One is outside its axis: the service gives them, and the old ones are in the metadata.
    OutOfRange,
    /// 0.0.0, which the old service wrote when it had no answer: the service gives them, and the old ones are in the
    /// metadata.
    NoAnswer,
}

/// How rows become chunks.
#[derive(Debug, Clone, Default)]
pub struct RowOptions {
    /// The dataset of all chunks, in place of that of each row.
    pub dataset: Option<String>,
    /// The codes 0.0.0 are taken as they are.
    pub zero_codes: bool,
}

/// The chunk of a row, as a line of an upload without its line break.
pub fn chunk_of(mut row: Map<String, Value>, options: &RowOptions) -> (Map<String, Value>, OldCodes) {
    row.retain(|name, value| says_something(name, value));
    let mut chunk = Map::new();
    move_name(&mut row, "cpe_id", &mut chunk, "id");
    let mut place = match row.remove("chunk_position").map(parsed) {
        Some(Value::Object(place)) => place,
        Some(other) => Map::from_iter([("chunk_position".to_owned(), other)]),
        None => Map::new(),
    };
    place.retain(|name, value| says_something(name, value));
    move_text(&mut row, &mut chunk);
    let codes = move_codes(&mut row, &mut chunk, options);
    move_place(&mut row, &mut place, &mut chunk);
    for (list, single) in [("parent_cpe_ids", "parent_cpe_id"), ("child_cpe_ids", "child_cpe_id")] {
        let mut links = row.remove(list).map(texts).unwrap_or_default();
        let link = row.remove(single).map(texts).unwrap_or_default();
        let new: Vec<String> = link.into_iter().filter(|link| !links.contains(link)).collect();
        links.extend(new);
        put(&mut chunk, list, links);
    }
    for list in ["soft_negatives", "hard_negatives"] {
        let negatives = row.remove(list).map(texts).unwrap_or_default();
        put(&mut chunk, list, negatives);
    }
    for name in ["probe_question", "expected_answer", "concept_text"] {
        chunk.extend(row.remove_entry(name));
    }
    for name in ["batch_id", "episode_id"] {
        move_name(&mut row, name, &mut chunk, name);
    }
    match &options.dataset {
        Some(dataset) => {
            chunk.insert("dataset_source".to_owned(), dataset.as_str().into());
            row.remove("dataset_source");
        }
        None => move_name(&mut row, "dataset_source", &mut chunk, "dataset_source"),
    }
    for (name, value) in place {
        row.entry(name).or_insert(value);
    }
    if !row.is_empty() {
        chunk.insert("metadata".to_owned(), Value::Object(row));
    }
    (chunk, codes)
}

/// Whether a column says anything: empty values are what the old scripts wrote for nothing.
fn says_something(name: &str, value: &Value) -> bool {
    let is_empty = match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => name == "access_count" && number.as_i64() == Some(0),
        Value::Bool(_) => false,
    };
    !is_empty && !DERIVED.contains(&name)
}

/// The text is what was taken from the source. The old ingest service wrote it twice; other loaders put an instruction
/// in front of it in `mission_text`, and some wrote nothing but the concept.
fn move_text(row: &mut Map<String, Value>, chunk: &mut Map<String, Value>) {
    let text =
        ["source_chunk", "mission_text", "concept_text"].into_iter().find_map(|name| row.get(name).cloned());
    row.remove("source_chunk");
    if row.get("mission_text") == text.as_ref() {
        row.remove("mission_text");
    }
    chunk.insert("text".to_owned(), text.unwrap_or_else(|| "".into()));
}

fn move_codes(
    row: &mut Map<String, Value>,
    chunk: &mut Map<String, Value>,
    options: &RowOptions,
) -> OldCodes {
    const NAMES: [&str; 3] = ["domain_code", "task_code", "modifier_code"];
    let [Some(domain), Some(task), Some(modifier)] = NAMES.map(|name| row.get(name).and_then(whole)) else {
        return OldCodes::Missing;
    };
    if [domain, task, modifier] == [0; 3] && !options.zero_codes {
        return OldCodes::NoAnswer;
    }
    if Tmd::new(domain, task, modifier).is_err() {
        return OldCodes::OutOfRange;
    }
    for (name, code) in NAMES.into_iter().zip([domain, task, modifier]) {
        row.remove(name);
        chunk.insert(name.to_owned(), code.into());
    }
    OldCodes::Taken
}

/// Where the text comes from. `sequence_index` was added later and is 0 in rows that nothing else filled; older rows
/// have their place in `index`.
fn move_place(row: &mut Map<String, Value>, place: &mut Map<String, Value>, chunk: &mut Map<String, Value>) {
    move_name(row, "document_id", chunk, "document_id");
    if !chunk.contains_key("document_id") {
        move_name(place, "doc_id", chunk, "document_id");
    }
    let sequence = row.get("sequence_index").and_then(whole);
    let numbers = [place.get("chunk_index"), place.get("index")].map(|value| value.and_then(whole));
    let index = sequence.filter(|number| *number != 0).or(numbers[0]).or(numbers[1]).or(sequence);
    chunk.insert("chunk_index".to_owned(), index.unwrap_or(0).into());
    let drop_if_taken = |from: &mut Map<String, Value>, name: &str| {
        if from.get(name).and_then(whole).is_some_and(|number| Some(number) == index) {
            from.remove(name);
        }
    };
    drop_if_taken(row, "sequence_index");
    drop_if_taken(place, "chunk_index");
    drop_if_taken(place, "index");
    move_name(place, "source", chunk, "source_document");
    move_name(place, "article_title", chunk, "article_title");
    if let Some(number) = place.get("article_index").and_then(whole) {
        place.remove("article_index");
        chunk.insert("article_index".to_owned(), number.into());
    }
}

/// Moves a name, unless a name cannot have this value: then it stays, for the metadata.
fn move_name(from: &mut Map<String, Value>, name: &str, to: &mut Map<String, Value>, as_name: &str) {
    let fits = match from.get(name) {
        Some(Value::String(text)) => text.len() <= MAX_NAME_BYTES,
        Some(Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    };
    if fits && let Some(value) = from.remove(name) {
        to.insert(as_name.to_owned(), value);
    }
}

fn put(chunk: &mut Map<String, Value>, name: &str, list: Vec<String>) {
    if !list.is_empty() {
        chunk.insert(name.to_owned(), list.into());
    }
}

/// A whole number, also as text.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A list or an object that was written into a column of text.
fn parsed(value: Value) -> Value {
    match &value {
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => {
            serde_json::from_str(text).unwrap_or(value)
        }
        _ => value,
    }
}

/// The texts of a list, or the single one that stands in its place.
fn texts(value: Value) -> Vec<String> {
    let text = |value: Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    match parsed(value) {
        Value::Array(items) => items.into_iter().filter_map(text).collect(),
        other => text(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chunk(row: Value) -> (Value, OldCodes) {
        with(row, &RowOptions::default())
    }

    fn with(row: Value, options: &RowOptions) -> (Value, OldCodes) {
        let Value::Object(row) = row else { unreachable!() };
        let (chunk, codes) = chunk_of(row, options);
        (Value::Object(chunk), codes)
    }

    #[test]
    fn a_row_of_the_old_ingest_service_has_a_field_for_everything() {
        let row = json!({
            "cpe_id": "0f1c", "mission_text": "Iron rusts.", "source_chunk": "Iron rusts.",
            "concept_text": "Rust is oxide.", "probe_question": "What is rust?", "expected_answer": "Oxide",
            "soft_negatives": ["Paint"], "hard_negatives": ["Paris", "Bach"],
            "domain_code": 4, "task_code": 5, "modifier_code": 9, "content_type": "factual",
            "dataset_source": "wiki", "relations_text": [], "echo_score": null, "validation_status": "pending",
            "chunk_position": {"article_title": "Iron", "article_index": 7, "chunk_index": 3, "source": "web_input"},
            "batch_id": "b", "created_at": "2025-10-12T03:04:05.5+00:00", "tmd_bits": 8521, "tmd_lane": "lane_4",
            "lane_index": 4, "parent_cpe_ids": ["p"], "child_cpe_ids": [], "access_count": 0,
            "last_accessed_at": null, "confidence_score": 0.09, "quality_metrics": {},
            "document_id": "doc", "sequence_index": 0, "episode_id": "e1", "parent_cpe_id": "p",
        });
        let expected = json!({
            "id": "0f1c", "text": "Iron rusts.", "concept_text": "Rust is oxide.", "probe_question": "What is rust?",
            "expected_answer": "Oxide", "soft_negatives": ["Paint"], "hard_negatives": ["Paris", "Bach"],
            "domain_code": 4, "task_code": 5, "modifier_code": 9, "dataset_source": "wiki", "document_id": "doc",
            "chunk_index": 3, "source_document": "web_input", "article_title": "Iron", "article_index": 7,
            "parent_cpe_ids": ["p"], "batch_id": "b", "episode_id": "e1",
            "metadata": {"content_type": "factual", "validation_status": "pending", "confidence_score": 0.09,
                         "created_at": "2025-10-12T03:04:05.5+00:00", "sequence_index": 0},
        });
        assert_eq!(chunk(row), (expected, OldCodes::Taken));
    }

    #[test]
    fn a_row_with_the_least_columns_is_a_chunk() {
        let (least, codes) = chunk(json!({"cpe_id": "a", "concept_text": "Only a concept."}));
        let expected = json!({"id": "a", "text": "Only a concept.", "concept_text": "Only a concept.", "chunk_index": 0});
        assert_eq!((least, codes), (expected, OldCodes::Missing));
        let (empty, _) = chunk(json!({"cpe_id": "a", "source_chunk": " ", "concept_text": null}));
        assert_eq!(empty["text"], "", "the service refuses it by name");
    }

    #[test]
    fn what_other_loaders_wrote_is_understood_or_kept() {
        let (factoid, codes) = chunk(json!({
            "cpe_id": "f", "mission_text": "Extract facts from: Water boils.", "source_chunk": "Water boils.",
            "chunk_position": "{\"doc_id\": 12, \"start\": 0, \"end\": 12}", "domain_code": 200, "task_code": 1,
            "modifier_code": 2, "soft_negatives": "[\"Ice\", 7]", "hard_negatives": "The Beatles",
            "relations_text": [{"subj": "water", "pred": "boils", "obj": "steam"}], "sequential_id": 99,
            "child_cpe_id": "next", "tmd_lane": "main",
        }));
        let expected = json!({
            "id": "f", "text": "Water boils.", "document_id": 12, "chunk_index": 0, "soft_negatives": ["Ice", "7"],
            "hard_negatives": ["The Beatles"], "child_cpe_ids": ["next"],
            "metadata": {"mission_text": "Extract facts from: Water boils.", "start": 0, "end": 12,
                         "domain_code": 200, "task_code": 1, "modifier_code": 2, "sequential_id": 99,
                         "relations_text": [{"subj": "water", "pred": "boils", "obj": "steam"}]},
        });
        assert_eq!((factoid, codes), (expected, OldCodes::OutOfRange));
    }

    #[test]
    fn the_place_is_the_number_that_was_filled() {
        let index = |sequence: Value, place: Value| {
            let row = json!({"cpe_id": "a", "source_chunk": "x", "sequence_index": sequence, "chunk_position": place});
            chunk(row).0["chunk_index"].clone()
        };
        assert_eq!(index(json!(5), json!({"chunk_index": 2})), 5);
        assert_eq!(index(json!(0), json!({"chunk_index": 2})), 2);
        assert_eq!(index(json!(0), json!({"index": "4"})), 4);
        assert_eq!(index(json!(0), json!({})), 0);
        assert_eq!(index(Value::Null, json!({"chunk_index": 6.0, "index": 1})), 6);
        let (kept, _) = chunk(json!({"cpe_id": "a", "source_chunk": "x", "sequence_index": 5,
                                     "chunk_position": {"chunk_index": 2, "article_title": "T".repeat(600)}}));
        assert_eq!(kept["metadata"]["chunk_index"], 2);
        assert_eq!(kept["metadata"]["article_title"].as_str().unwrap().len(), 600, "too long for a title");
    }

    #[test]
    fn no_answer_is_no_code_unless_it_is_wanted() {
        let row =
            json!({"cpe_id": "a", "source_chunk": "x", "domain_code": 0, "task_code": 0, "modifier_code": 0});
        let (absent, codes) = chunk(row.clone());
        assert_eq!((absent.get("domain_code"), codes), (None, OldCodes::NoAnswer));
        assert_eq!(absent["metadata"], json!({"domain_code": 0, "task_code": 0, "modifier_code": 0}));
        let options = RowOptions { zero_codes: true, dataset: Some("mine".to_owned()) };
        let (taken, codes) = with(row, &options);
        assert_eq!((&taken["domain_code"], codes), (&json!(0), OldCodes::Taken));
        assert_eq!((&taken["dataset_source"], taken.get("metadata")), (&json!("mine"), None));
    }
}
