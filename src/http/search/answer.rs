//! The answer to a search: rows that are loaded and written in pieces, as the client takes them.
//!
//! Small rows are read at once, of others the sizes. These decide which results fit, and how many bytes the answer holds
//! at a time.

use crate::http::error::{ApiError, no_answer};
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::state::State;
use crate::output::throttled;
use crate::search::{Explanation, RankedItem, Ranking};
use crate::store::{Hit, Store};
use crate::tmd::{Axis, Tmd};
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use chrono::SecondsFormat;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The largest answer, in bytes of JSON.
pub const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// The bytes that the ends of an answer take at most.
const ENDS: usize = 512;
/// The bytes of a result beside its metadata: six times a text of 64 KiB, for characters that are escaped, CPESH parts of
/// 64 KiB as JSON, and names.
const BESIDE_METADATA: usize = 512 * 1024;
/// The largest text and metadata of a result. A result that is not larger fits into an answer of its own.
const MAX_ROW_BYTES: usize = MAX_ANSWER_BYTES - BESIDE_METADATA - ENDS;
/// The bytes of texts and metadata that are loaded at a time, or one row that is larger.
const LOADED: usize = 256 * 1024;
/// The bytes of JSON after which a piece ends.
const PIECE: usize = 64 * 1024;

/// An answer that is being written.
pub(super) struct Answer {
    store: Store,
    /// Results that are not written yet, best first, with the bytes of their rows.
    left: VecDeque<(RankedItem, usize)>,
    /// The small rows of them.
    small: HashMap<u32, Hit>,
    /// The next of them, with their rows.
    loaded: VecDeque<(RankedItem, Hit)>,
    /// The bytes that further results may take.
    room: usize,
    index_seq: i64,
    /// Shown when the client asks for it.
    explanation: Option<Explanation>,
    /// The time that the database took.
    rows_took: Duration,
    begun: bool,
    written: usize,
    truncated: bool,
    ended: bool,
    _permits: [Permit; 2],
}

impl Answer {
    /// Chooses the results that fit, and takes a permit for the bytes that writing them holds.
    ///
    /// # Errors
    /// 429 when other answers hold too many bytes; the errors of the database.
    pub(super) async fn new(
        ranking: Ranking,
        explain: bool,
        state: &State,
        permit: Permit,
    ) -> Result<Answer, ApiError> {
        let began = Instant::now();
        let items: Vec<u32> = ranking.items.iter().map(|ranked| ranked.item).collect();
        let small = state.store.small_hits(&items, LOADED / items.len().max(1)).await?;
        let mut sizes: HashMap<u32, usize> = small.iter().map(|hit| (hit.item, hit.bytes())).collect();
        let others: Vec<u32> = items.into_iter().filter(|item| !sizes.contains_key(item)).collect();
        if !others.is_empty() {
            sizes.extend(state.store.hit_sizes(&others).await?);
        }
        let (mut left, mut truncated, mut total, mut largest) = (VecDeque::new(), false, 0, 0);
        for ranked in ranking.items {
            // Without a size it was deleted meanwhile.
            let Some(&bytes) = sizes.get(&ranked.item) else { continue };
            if bytes > MAX_ROW_BYTES {
                truncated = true;
                continue;
            }
            if total + bytes > MAX_ANSWER_BYTES {
                truncated = true;
                break;
            }
            (total, largest) = (total + bytes, largest.max(bytes));
            left.push_back((ranked, bytes));
        }
        // Loaded rows and the same again as JSON, where escaped characters and names come on top.
        let held = 2 * total.min(LOADED).max(largest) + BESIDE_METADATA;
        let bytes = state.admit_standalone(AdmissionRequest::Answer(held)).await?;
        state.count_accesses(left.iter().map(|(ranked, _)| ranked.item));
        Ok(Answer {
            store: state.store.clone(),
            left,
            small: small.into_iter().map(|hit| (hit.item, hit)).collect(),
            loaded: VecDeque::new(),
            room: MAX_ANSWER_BYTES - ENDS,
            index_seq: ranking.index_seq,
            explanation: explain.then_some(ranking.explanation),
            rows_took: began.elapsed(),
            begun: false,
            written: 0,
            truncated,
            ended: false,
            _permits: [permit, bytes],
        })
    }

    /// Makes the first piece, and answers with it and those that follow.
    ///
    /// # Errors
    /// The errors of the database. When a later piece fails, the connection ends before the answer is complete.
    pub(super) async fn into_response(mut self, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
        let first = self.piece().await?;
        let (pieces, received) = mpsc::channel(1);
        let (complete, completed) = oneshot::channel();
        // In its own task: the framework does not poll the stream of a connection that is not read.
        actix_web::rt::spawn(async move {
            if self.send(first, &pieces, &state).await {
                // After a disconnect the receiver is gone.
                let _gone = complete.send(());
            }
        });
        let pieces = stream::unfold((received, Some(completed)), |(mut received, completed)| async move {
            if let Some(piece) = received.recv().await {
                return Some((Ok(piece), (received, completed)));
            }
            // An answer that was not completed must not look like a whole one.
            completed?.await.err().map(|_| (Err(no_answer()), (received, None)))
        });
        Ok(HttpResponse::Ok().content_type("application/json").streaming(pieces))
    }

    /// Sends the pieces as the client takes them. Returns whether all were sent: not when the client is gone, the
    /// database has failed, or the client is slow and others need its permit.
    async fn send(
        &mut self,
        first: Option<Bytes>,
        pieces: &mpsc::Sender<Bytes>,
        state: &web::Data<State>,
    ) -> bool {
        let client = state.admission.searches().read_body();
        let mut next = first;
        while let Some(piece) = next {
            if !matches!(client.wait(pieces.send(piece)).await, Some(Ok(()))) {
                return false;
            }
            next = match self.piece().await {
                Ok(piece) => piece,
                Err(error) => {
                    throttled!(warn, %error, "the answer to a search could not be completed");
                    return false;
                }
            };
        }
        // The last piece may still wait for the client.
        client.wait(pieces.reserve()).await.is_some_and(|place| place.is_ok())
    }

    /// The next piece; `None` after the last.
    async fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let mut text = Vec::new();
        if !self.begun {
            text.extend_from_slice(b"{\"results\":[");
            self.begun = true;
        }
        while text.len() < PIECE {
            let Some((ranked, hit)) = self.next_row().await? else {
                self.end(&mut text);
                break;
            };
            let before = text.len();
            if self.written > 0 {
                text.push(b',');
            }
            let explain = self.explanation.is_some();
            write_result(&mut text, ranked, &hit, explain).map_err(|_| no_answer())?;
            let took = text.len() - before;
            if took > self.room {
                text.truncate(before);
                self.truncated = true;
                self.end(&mut text);
                break;
            }
            self.room -= took;
            self.written += 1;
        }
        Ok(Some(text.into()))
    }

    /// The next result that still has a row.
    async fn next_row(&mut self) -> Result<Option<(RankedItem, Hit)>, ApiError> {
        while self.loaded.is_empty() && !self.left.is_empty() {
            let mut group = Vec::new();
            let mut bytes = 0;
            while let Some((ranked, more)) = self.left.front()
                && (group.is_empty() || bytes + more <= LOADED)
            {
                bytes += more;
                group.push(*ranked);
                self.left.pop_front();
            }
            let known = group.iter().filter_map(|ranked| self.small.remove(&ranked.item));
            let mut rows: HashMap<u32, Hit> = known.map(|hit| (hit.item, hit)).collect();
            let items: Vec<u32> =
                group.iter().map(|ranked| ranked.item).filter(|item| !rows.contains_key(item)).collect();
            if !items.is_empty() {
                let began = Instant::now();
                rows.extend(self.store.hits(&items).await?.into_iter().map(|hit| (hit.item, hit)));
                self.rows_took += began.elapsed();
            }
            let found = group.iter().filter_map(|ranked| {
                let hit = rows.remove(&ranked.item)?;
                // After a failover or a restored backup another row may have the number, or an earlier state of the row.
                let same = hit.created_at.timestamp_micros() == ranked.created_at && hit.seq >= ranked.seq;
                same.then_some((*ranked, hit))
            });
            self.loaded = found.collect();
        }
        Ok(self.loaded.pop_front())
    }

    fn end(&mut self, text: &mut Vec<u8>) {
        let (seq, truncated) = (self.index_seq, self.truncated);
        let end = format!("],\"index_seq\":{seq},\"truncated_results\":{truncated}");
        text.extend_from_slice(end.as_bytes());
        if let Some(explanation) = &self.explanation {
            text.extend_from_slice(b",\"explanation\":");
            text.extend_from_slice(explained(explanation, self.rows_took).to_string().as_bytes());
        }
        text.push(b'}');
        self.ended = true;
        self.left.clear();
        self.loaded.clear();
    }
}

/// A result without its metadata, which is JSON already.
#[derive(Serialize)]
struct ResultFields<'a> {
    id: &'a str,
    cpe_id: uuid::Uuid,
    text: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<ScoreParts>,
    matched: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concept_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_question: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_answer: Option<&'a str>,
    tmd: Value,
    names: Value,
    dataset_source: &'a str,
    document_id: Option<&'a str>,
    chunk_index: i64,
    article_title: Option<&'a str>,
    source_document: Option<&'a str>,
    created_at: String,
    seq: i64,
}

/// The parts of a score.
#[derive(Serialize)]
struct ScoreParts {
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyword: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmd: Option<f32>,
}

/// How the results were found.
fn explained(explanation: &Explanation, rows: Duration) -> Value {
    let Explanation { mode, matching, compared, times } = *explanation;
    json!({
        "path": mode.name(), "matching": matching, "compared": compared,
        "times_ms": {"prepare": millis(times.prepare), "index": millis(times.index), "rows": millis(rows)},
    })
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn write_result(text: &mut Vec<u8>, ranked: RankedItem, hit: &Hit, explain: bool) -> serde_json::Result<()> {
    let name = |axis| hit.tmd.map(|tmd| tmd.name(axis));
    let fields = ResultFields {
        id: &hit.id,
        cpe_id: hit.cpe_id,
        text: &hit.text,
        score: ranked.score,
        scores: explain.then_some(ScoreParts {
            cosine: ranked.cosine,
            keyword: ranked.keyword,
            tmd: ranked.similarity,
        }),
        matched: ranked.matched.name(),
        concept_text: hit.concept_text.as_deref(),
        probe_question: hit.probe_question.as_deref(),
        expected_answer: hit.expected_answer.as_deref(),
        tmd: json!({
            "domain": hit.tmd.map(Tmd::domain), "task": hit.tmd.map(Tmd::task), "modifier": hit.tmd.map(Tmd::modifier),
            "source": hit.tmd_source.kind(), "confidence": hit.confidence,
        }),
        names: json!({
            "domain": name(Axis::Domain), "task": name(Axis::Task), "modifier": name(Axis::Modifier),
        }),
        dataset_source: &hit.dataset_source,
        document_id: hit.document_id.as_deref(),
        chunk_index: hit.chunk_index,
        article_title: hit.article_title.as_deref(),
        source_document: hit.source_document.as_deref(),
        created_at: hit.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        seq: hit.seq,
    };
    serde_json::to_writer(&mut *text, &fields)?;
    text.pop();
    text.extend_from_slice(b",\"metadata\":");
    text.extend_from_slice(hit.metadata.as_deref().unwrap_or("null").as_bytes());
    text.push(b'}');
    Ok(())
}
