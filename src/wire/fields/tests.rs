//! What chunks may look like, and that what is wrong with one is said in words of JSON.

use super::*;
use crate::chunk::{LabelChoice, OnConflict, VectorSource};
use crate::model::ModelIdentity;
use crate::wire::shape::{MAX_NESTING, MAX_QUOTE};
use serde_json::json;
use std::sync::Arc;

fn model() -> Arc<ModelIdentity> {
    let text = |text: &str| text.to_owned();
    Arc::new(ModelIdentity { name: text("m"), recipe: text("r"), fingerprint: text("print"), dims: 2 })
}

fn names() -> SharedNames {
    let batch = Some(BatchId::Named("of the request".into()));
    SharedNames {
        dataset: "d".into(),
        batch,
        skip_cpesh: false,
        labels: LabelChoice::All,
        on_conflict: OnConflict::Error,
        unknown_fields: UnknownFieldPolicy::Keep,
        model: model(),
    }
}

fn refused(line: impl AsRef<[u8]>) -> Rejection {
    match WireChunk::read(line.as_ref()).and_then(|chunk| chunk.check(&names(), DateTime::UNIX_EPOCH)) {
        Ok(chunk) => panic!("{chunk:?}"),
        Err(rejection) => rejection,
    }
}

fn code(line: impl AsRef<[u8]>) -> ErrorCode {
    refused(line).code
}

fn read(value: Value) -> Chunk {
    WireChunk::read(value.to_string().as_bytes()).unwrap().check(&names(), DateTime::UNIX_EPOCH).unwrap()
}

#[test]
fn each_kind_of_bad_shape_has_its_code() {
    assert_eq!(code(b"{\"text\":\"a\xff\"}"), ErrorCode::InvalidUtf8);
    assert_eq!(code(b"hello"), ErrorCode::InvalidJson);
    assert_eq!(code(b"{\"text\":\"a\"} x"), ErrorCode::InvalidJson);
    assert_eq!(code(b"{\"text\":\"\\ud800\"}"), ErrorCode::InvalidJson);
    assert_eq!(code(b"{\"txt\":\"a\"}"), ErrorCode::MissingField);
    assert_eq!(code(b"{}"), ErrorCode::MissingField);
    assert_eq!(code(b"{\"text\":null}"), ErrorCode::MissingField);
    assert_eq!(code(b"{\"text\":5}"), ErrorCode::WrongType);
    assert_eq!(code(b"[1]"), ErrorCode::WrongType);
    assert_eq!(code(b"{\"text\":\"a\",\"task_code\":1e30}"), ErrorCode::NumberOutOfRange);
    let nested = format!(r#"{{"text":"a","metadata":{{"k":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    assert_eq!(code(nested), ErrorCode::NestedTooDeep);
    assert_eq!(code(b"{\"text\":\"a\",\"metadata\":{\"k\":1e999}}"), ErrorCode::NumberOutOfRange);
    assert_eq!(code(b"{\"text\":\"a\",\"chunk_index\":9223372036854775808}"), ErrorCode::NumberOutOfRange);
    assert_eq!(code(b"{\"text\":\"a\",\"text\":\"b\"}"), ErrorCode::DuplicateKey);
    assert_eq!(code(b"{\"text\":\"a\",\"chunk_index\":1,\"sequence_index\":1}"), ErrorCode::DuplicateKey);
}

#[test]
fn a_chunk_nests_to_its_limit() {
    // The chunk and its metadata are two levels.
    let chunk = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
        format!(r#"{{"text":"[[[[","metadata":{{"k":{open}{close}}}}}"#)
    };
    assert!(WireChunk::read(chunk(MAX_NESTING).as_bytes()).is_ok());
    assert_eq!(code(chunk(MAX_NESTING + 1)), ErrorCode::NestedTooDeep);
}

#[test]
fn a_message_quotes_only_the_beginning_of_what_was_sent() {
    let long = "é".repeat(100_000);
    for line in [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"text":1,"id":"{long}"}}"#),
        format!(r#"{{"text":"a","chunk_index":"{long}"}}"#),
        format!(r#"{{"text":"a","metadata":{{"{long}":1e999}}}}"#),
        format!(r#"{{"text":"a","metadata":{{"{long}":1,"{long}":1}}}}"#),
    ] {
        let rejection = WireChunk::read(line.as_bytes()).unwrap_err();
        assert!(rejection.message.len() < 2 * MAX_QUOTE + 20, "{} bytes", rejection.message.len());
    }
}

#[test]
fn lists_and_metadata_have_limits() {
    let links =
        |count: usize| format!(r#"{{"text":"a","child_cpe_ids":[{}]}}"#, vec!["\"\""; count].join(","));
    let error = refused(links(1_000_000));
    assert_eq!((error.code, error.param), (ErrorCode::TooManyLinks, Some("child_cpe_ids")));
    assert!(error.message.ends_with("received 1000000"), "{}", error.message);
    let long = format!(r#"{{"text":"a","metadata":{{"k":"{}"}}}}"#, "x".repeat(65_536));
    assert_eq!(code(long), ErrorCode::MetadataTooLarge);
    let zeros = format!(r#"{{"text":"a","metadata":{{"k":[{}]}}}}"#, vec!["0"; 100_000].join(","));
    assert_eq!(code(zeros), ErrorCode::MetadataTooLarge);
}

#[test]
fn names_of_real_clients_are_understood() {
    let line = br#"{"text":"a","sequence_index":7,"episode_id":"e","concept_vec":[1,2],"metadata":{"k":1}}"#;
    let chunk = WireChunk::read(line).unwrap().check(&names(), DateTime::UNIX_EPOCH).unwrap();
    assert_eq!(chunk.placement.chunk_index, 7);
    assert_eq!(chunk.metadata.unwrap().as_str(), r#"{"episode_id":"e","k":1}"#);
}

#[test]
fn ids_may_be_whole_numbers_and_whole_numbers_may_be_texts() {
    let chunk = read(json!({
        "id": 7, "document_id": 42, "text": "a", "batch_id": 9, "source_document": 1, "article_title": 1984,
        "article_index": "12", "chunk_index": 3.0, "parent_cpe_ids": [1, "b", null], "child_cpe_ids": null,
        "domain_code": "005", "task_code": 4.0, "modifier_code": "6", "episode_id": 5,
    }));
    let placement = &chunk.placement;
    assert_eq!((&*chunk.key.id, placement.document_id.as_deref()), ("7", Some("42")));
    assert_eq!(chunk.batch.as_ref().map(BatchId::as_str), Some("9"), "that of the chunk wins");
    assert_eq!(
        (placement.source_document.as_deref(), placement.article_title.as_deref()),
        (Some("1"), Some("1984"))
    );
    assert_eq!((placement.article_index, placement.chunk_index), (Some(12), 3));
    assert_eq!(
        (placement.parent_cpe_ids.as_slice(), placement.child_cpe_ids.len()),
        (&["1".to_owned(), "b".to_owned()][..], 0)
    );
    let codes = chunk.client_tmd().unwrap();
    assert_eq!((codes.domain(), codes.task(), codes.modifier()), (5, 4, 6));
    assert_eq!(chunk.metadata.unwrap().as_str(), r#"{"episode_id":"5"}"#);
}

#[test]
fn null_is_absence_in_every_field() {
    let all: Map<String, Value> = CHUNK_FIELDS
        .iter()
        .map(|field| ((*field).to_owned(), if *field == "text" { json!("a") } else { Value::Null }))
        .collect();
    let (chunk, absent) = (read(Value::Object(all)), read(json!({"text": "a"})));
    assert_eq!(chunk, absent);
    assert_eq!(chunk.batch.as_ref().map(BatchId::as_str), Some("of the request"));
}

#[test]
fn unknown_fields_are_kept_in_the_metadata_or_refused_by_name() {
    let line = br#"{"text":"a","colour":"red","k":2,"metadata":{"k":1}}"#;
    let chunk = WireChunk::read(line).unwrap();
    assert_eq!(chunk.unknown_fields(), ["colour", "k"]);
    assert_eq!(
        chunk.check(&names(), DateTime::UNIX_EPOCH).unwrap().metadata.unwrap().as_str(),
        r#"{"colour":"red","k":1}"#
    );
    let strict = SharedNames { unknown_fields: UnknownFieldPolicy::Refuse, ..names() };
    let error = WireChunk::read(line).unwrap().check(&strict, DateTime::UNIX_EPOCH).unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownField);
    assert!(error.message.starts_with("unknown field `colour`"), "{}", error.message);
    assert!(
        WireChunk::read(br#"{"text":"a","batch_id":"b"}"#)
            .unwrap()
            .check(&strict, DateTime::UNIX_EPOCH)
            .is_ok()
    );
}

#[test]
fn a_missing_text_names_what_is_there_instead() {
    let message = refused(r#"{"content":"a","page":1}"#).message;
    assert!(message.contains("`text`") && message.contains("`content`, `page`"), "{message}");
    assert!(refused(r#"{"chunks":[]}"#).message.contains("application/json"));
    assert_eq!(refused("{}").message, "missing field `text`");
    assert_eq!(refused("{}").param, Some("text"));
}

#[test]
fn a_vector_is_taken_with_its_model_in_any_order_and_is_an_unknown_field_without() {
    let read = |line: &str| WireChunk::read(line.as_bytes()).unwrap();
    let check = |line: &str| read(line).check(&names(), DateTime::UNIX_EPOCH);
    for line in [
        r#"{"text":"a","vector_model":"print","vector":[0.6,0.8],"vector_truncated":true,"vector_unread":0.75}"#,
        r#"{"vector":[0.6,0.8],"vector_unread":0.75,"vector_truncated":1,"text":"a","vector_model":"print"}"#,
        r#"{"text":"a","vector":"mpkZP83MTD8=","vector_model":"print","vector_unread":0.75,"vector_truncated":true}"#,
    ] {
        let chunk = check(line).unwrap();
        let VectorSource::Given { embedding, .. } = &chunk.vector else { panic!("{line}") };
        assert_eq!(embedding.vector[..], [0.6, 0.8], "{line}");
        assert_eq!((embedding.truncated, embedding.unread, chunk.metadata), (true, Some(0.75), None));
    }
    let other = check(r#"{"text":"a","vector_model":"another","vector":[1,2,3]}"#).unwrap();
    assert_eq!((other.vector, other.metadata), (VectorSource::OtherModel, None));
    // As before: fields of other programs, kept as they are.
    for (line, metadata) in [
        (r#"{"text":"a","vector":[0.1,"x"]}"#, r#"{"vector":[0.1,"x"]}"#),
        (r#"{"text":"a","vector_model":"print"}"#, r#"{"vector_model":"print"}"#),
        (r#"{"text":"a","vector":{"k":1},"vector_unread":"?"}"#, r#"{"vector":{"k":1},"vector_unread":"?"}"#),
        (
            r#"{"text":"a","vector":[0.1],"metadata":{"vector_model":"x"}}"#,
            r#"{"vector":[0.1],"vector_model":"x"}"#,
        ),
    ] {
        let chunk = check(line).unwrap();
        assert_eq!(chunk.vector, VectorSource::Text, "{line}");
        assert_eq!(chunk.metadata.unwrap().as_str(), metadata);
    }
    let error = check(r#"{"text":"a","vector_model":"print","vector":[3,4]}"#).unwrap_err();
    assert_eq!((error.code, error.param), (ErrorCode::InvalidVector, Some("vector")));
    let error = refused(r#"{"text":"a","vector_model":"print","vector":"no base64"}"#);
    assert_eq!((error.code, error.param), (ErrorCode::WrongType, Some("vector")), "{}", error.message);
}

#[test]
fn every_number_of_a_vector_is_the_nearest_f32_of_its_text() {
    // By way of a 64-bit number, each of these is rounded twice and gets another last bit.
    let doubly = ["1.0000001788139343261718749", "-1.0000001788139343261718749"];
    for text in doubly {
        let line = format!(r#"{{"text":"a","vector_model":"another model","vector":[{text}]}}"#);
        let WithVector(chunk) = read_json(line.as_bytes()).unwrap();
        let nearest: f32 = text.parse().unwrap();
        assert_eq!(chunk.vector.values.unwrap().bits(), [nearest.to_bits()], "{text}");
        assert_ne!((text.parse::<f64>().unwrap() as f32).to_bits(), nearest.to_bits(), "{text}");
    }
}

#[test]
fn a_chunk_may_name_its_own_dataset_and_where_its_codes_come_from() {
    let chunk = read(json!({
        "text": "a", "dataset_source": "own", "domain_code": 1, "task_code": 2, "modifier_code": 3, "tmd_source": "llm",
        "tmd_model": "m", "tmd_confidence": {"domain": 0.5, "task": 1, "modifier": 0.25}, "tmd_took_us": 7,
    }));
    assert_eq!(&*chunk.key.dataset, "own");
    let tagging = chunk.given_tagging.unwrap();
    assert_eq!((tagging.source.kind(), tagging.source.model()), ("llm", Some("m")));
    assert_eq!((tagging.confidence.unwrap().modifier, tagging.took.unwrap().as_micros()), (0.25, 7));
    for (line, code, param) in [
        (r#"{"text":"a","dataset_source":" "}"#, ErrorCode::InvalidName, "dataset_source"),
        (r#"{"text":"a","tmd_source":"llm","tmd_model":"m"}"#, ErrorCode::InvalidProvenance, "tmd_source"),
        (r#"{"text":"a","tmd_model":"m"}"#, ErrorCode::InvalidProvenance, "tmd_model"),
        (
            r#"{"text":"a","tmd_source":"client","tmd_took_us":-1}"#,
            ErrorCode::InvalidProvenance,
            "tmd_took_us",
        ),
    ] {
        let error = refused(line);
        assert_eq!((error.code, error.param), (code, Some(param)), "{line}");
    }
}

/// Words of this program's language and libraries that mean nothing to a client.
const FOREIGN: [&str; 20] = [
    "i64",
    "i32",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "f32",
    "f64",
    "struct",
    "sequence",
    "WireChunk",
    "Visitor",
    "enum",
    "variant",
    "Option",
    "String",
    "newtype",
    "unit",
    "surrogate in hex",
];

#[test]
fn no_message_speaks_of_this_programs_types() {
    let values = [
        "null",
        "true",
        "-1",
        "1.5",
        "1e30",
        "9223372036854775808",
        "18446744073709551616",
        "\"\"",
        "\"x\"",
        "\"1.5\"",
        "[]",
        "[1]",
        "[[1]]",
        "{}",
        "{\"a\":1}",
        "\"\\ud83d\"",
        "\"\\udc00\"",
        "\"\\u12\"",
        "\"\\x\"",
        "tru",
        "nul",
        "01",
        "-",
        "1.",
        "+1",
        "NaN",
        "\"\t\"",
        "\"open",
        "[1",
        "{\"a\"",
        "{a:1}",
        "[1,]",
        "1 2",
    ];
    let mut messages = 0;
    for field in CHUNK_FIELDS {
        for value in values {
            for line in [
                format!("{{\"{field}\":{value},\"text\":\"a\"}}"),
                format!("{{\"text\":\"a\",\"{field}\":{value}}}"),
                format!("{{\"text\":\"a\",\"metadata\":{{\"k\":1,\"{field}\":{value}}}"),
                format!("{{\"text\":\"a\",\"{field}\":[{value},7.5]}}"),
                value.to_owned(),
            ] {
                let Err(error) = WireChunk::read(line.as_bytes())
                    .and_then(|chunk| chunk.check(&names(), DateTime::UNIX_EPOCH))
                else {
                    continue;
                };
                messages += 1;
                let words: Vec<&str> =
                    error.message.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
                for foreign in FOREIGN {
                    let is_there =
                        words.contains(&foreign) || foreign.contains(' ') && error.message.contains(foreign);
                    assert!(!is_there, "{foreign} in \"{}\" for {line}", error.message);
                }
                if line.starts_with('{') && error.code == ErrorCode::WrongType {
                    assert!(error.message.contains(", received "), "\"{}\" for {line}", error.message);
                }
            }
        }
    }
    assert!(messages > 1000, "{messages}");
}
