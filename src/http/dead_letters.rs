//! `GET /dead-letters`: the chunks on which the service failed, oldest first, in pages. Each has its JSON input, which
//! `lnsp replay` sends again.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::error::no_answer;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters;
use crate::http::pieces::in_pieces;
use crate::http::state::State;
use crate::metrics;
use crate::store::{DeadLetterFilter, StoreError, StoredDeadLetter};
use crate::wire::WholeNumber;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// The default number of letters in a page.
const USUAL_PAGE: u32 = 100;
/// The maximum number of letters in a page.
const MAX_PAGE: u32 = 1000;
/// The bytes of inputs above which a page ends early.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePage {
    cause: Option<String>,
    dataset_source: Option<String>,
    limit: Option<WholeNumber>,
    after: Option<WholeNumber>,
}

/// Handles `GET /dead-letters`.
pub async fn dead_letters(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let page: WirePage = parameters::of_query(&request)?;
    let limit = parameters::page_length(page.limit, USUAL_PAGE, MAX_PAGE)?;
    let WholeNumber(after) = page.after.unwrap_or(WholeNumber(0));
    let cause = page.cause.as_deref().map(cause_of).transpose()?;
    if let Some(dataset) = &page.dataset_source {
        parameters::check_name("dataset_source", dataset)?;
    }
    let permit = state.admit_standalone(AdmissionRequest::Page).await?;
    let filter = DeadLetterFilter { cause, dataset_source: page.dataset_source };
    let letters = async {
        let letters = state.store.dead_letters(&filter, after, limit, PAGE_BYTES).await?;
        Ok::<_, StoreError>((letters, state.store.count_dead_letters().await?))
    };
    let (letters, total) = letters.await?;
    metrics::dead_letters(total);
    written(letters, total, permit)
}

/// The page, of which each letter is freed when it is written.
fn written(letters: Vec<StoredDeadLetter>, total: i64, permit: Permit) -> Result<HttpResponse, ApiError> {
    // A page may end early for its bytes, so only an empty page is the last.
    let next = letters.last().map(|last| last.letter);
    let mut pieces = vec![Bytes::from_static(b"{\"letters\":[")];
    for (place, letter) in letters.into_iter().enumerate() {
        let text = object(&letter).map_err(|_| no_answer())?;
        pieces.extend((place > 0).then(|| Bytes::from_static(b",")));
        pieces.push(text.into());
    }
    pieces.push(format!("],\"next\":{},\"total\":{total}}}", json!(next)).into());
    Ok(in_pieces(pieces, permit))
}

fn cause_of(code: &str) -> Result<&'static str, ApiError> {
    let kept = || ErrorCode::ALL.iter().filter(|code| code.is_kept()).map(|code| code.as_str());
    kept().find(|known| *known == code).ok_or_else(|| {
        let expected = kept().collect::<Vec<_>>().join(", ");
        invalid("cause", &format!("one of {expected}"), code)
    })
}

fn invalid(param: &str, expected: &str, received: &str) -> ApiError {
    let message = format!("{param}: expected {expected}, received '{}'", parameters::quoted(received));
    ApiError::new(ErrorCode::InvalidQuery, message).param(param)
}

/// A letter as JSON. Its input is JSON already and is not parsed into values, which take many times its bytes.
fn object(letter: &StoredDeadLetter) -> serde_json::Result<Vec<u8>> {
    let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let fields = json!({
        "letter": letter.letter, "dataset_source": letter.dataset_source, "id": letter.id,
        "stage": letter.stage, "cause": letter.cause, "message": letter.message,
        "attempts": letter.attempts, "times": letter.times, "batch_id": letter.batch_id,
        "first_failed_at": time(&letter.first_failed_at), "last_failed_at": time(&letter.last_failed_at),
    });
    let mut text = serde_json::to_vec(&fields)?;
    text.pop();
    text.extend_from_slice(b",\"input\":");
    // Input that is not JSON was written by another program; it is shown as it is.
    match serde_json::from_slice::<IgnoredAny>(&letter.input) {
        Ok(_) => text.extend_from_slice(&letter.input),
        Err(_) => serde_json::to_writer(&mut text, &String::from_utf8_lossy(&letter.input))?,
    }
    text.push(b'}');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use crate::chunk::{BatchId, Chunk, LabelChoice, OnConflict};
    use crate::model::ModelIdentity;
    use crate::wire::{SharedNames, UnknownFieldPolicy, WireChunk};
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn made_of(json: &[u8]) -> Chunk {
        let (dataset, batch) = ("d".into(), Some(BatchId::Named("b".into())));
        let unknown_fields = UnknownFieldPolicy::Refuse;
        let text = || "m".to_owned();
        let model = ModelIdentity { name: text(), recipe: text(), fingerprint: text(), dims: 2 }.into();
        let names = SharedNames {
            dataset,
            batch,
            skip_cpesh: false,
            labels: LabelChoice::All,
            on_conflict: OnConflict::Error,
            unknown_fields,
            model,
        };
        WireChunk::read(json).unwrap().check(&names, DateTime::UNIX_EPOCH).unwrap()
    }

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from)
        ]
    }

    fn fields() -> impl Strategy<Value = Map<String, Value>> {
        let name = || proptest::option::of("[^\0]{0,9}");
        let words = proptest::option::of(proptest::collection::vec("[^\0]{0,5}", 0..3));
        let value = prop_oneof![number(), "[^\0]{0,5}".prop_map(Value::from), Just(Value::Null)];
        let key = prop_oneof![4 => "[a-c]{1,2}", 1 => Just("episode_id".to_owned())];
        let metadata = proptest::option::of(proptest::collection::btree_map(key, value, 0..4));
        let code = || proptest::option::of(0i64..16);
        let names = (name(), name(), name(), name());
        let rest = (proptest::option::of(any::<i64>()), proptest::option::of(any::<i64>()), words);
        (("[^\0]{0,20}x", proptest::option::of("[a-z]{1,5}")), names, rest, metadata, [code(), code(), code()])
            .prop_map(|((text, id), (document, source, title, episode), (index, article, links), metadata, codes)| {
                let all = json!({
                    "text": text, "id": id, "document_id": document, "source_document": source,
                    "article_title": title, "episode_id": episode, "chunk_index": index, "article_index": article,
                    "parent_cpe_ids": links, "child_cpe_ids": links, "metadata": metadata,
                    "domain_code": codes[0], "task_code": codes[1], "modifier_code": codes[2],
                });
                let Value::Object(fields) = all else { unreachable!() };
                fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
            })
    }

    proptest! {
        #[test]
        fn what_a_letter_holds_makes_the_same_chunk_again(fields in fields()) {
            let chunk = made_of(Value::Object(fields).to_string().as_bytes());
            let again = made_of(&chunk.as_sent().unwrap());
            prop_assert_eq!(&again, &chunk);
            // It stays the same after another program has parsed and written it.
            let value: Value = serde_json::from_slice(&chunk.as_sent().unwrap()).unwrap();
            prop_assert_eq!(made_of(value.to_string().as_bytes()), chunk);
        }
    }

    #[test]
    fn the_episode_is_no_key_too_many() {
        let keys: Map<String, Value> = (0..64).map(|n| (format!("k{n}"), json!(n))).collect();
        let line = json!({"text": "a", "metadata": keys, "episode_id": "e"}).to_string();
        let chunk = made_of(line.as_bytes());
        assert_eq!(made_of(&chunk.as_sent().unwrap()), chunk);
    }
}
