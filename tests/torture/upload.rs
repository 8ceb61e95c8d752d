//! One upload: what goes out, and what must come back. Every line is answered exactly once, or the connection is
//! visibly cut; everything else is a broken promise.

use crate::oracle::LedgerEntry;
use crate::payload::{DATASET, Piece};
use crate::round_state::RoundState;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// The pause of a client before it repeats a refused upload.
const KNOCK_AGAIN: Duration = Duration::from_millis(100);

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A chunk with the text of this piece.
    Piece(Piece),
    /// No chunk: it must be refused with this code.
    Bad(&'static str),
    /// Nothing: it has no answer.
    Blank,
}

/// How the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// NDJSON, a line for each.
    Stream,
    /// NDJSON, one summary.
    Summary,
    /// A JSON request.
    Json,
}

/// One upload: its lines, and how it is sent.
pub struct Upload {
    /// The lines, in the order of sending.
    pub lines: Vec<(What, String)>,
    /// How the answer is wanted.
    pub mode: Mode,
    /// Whether the body is compressed with gzip.
    pub packed: bool,
    /// In pieces of this size, with pauses; else at once.
    pub pieces: Option<usize>,
}

/// The answer to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LineOutcome {
    Stored,
    Duplicate,
    Error { code: String, retryable: bool },
}

/// What has come back so far.
struct Answers<'a> {
    state: &'a RoundState,
    upload: &'a Upload,
    outcomes: BTreeMap<usize, LineOutcome>,
}

impl Upload {
    fn body(&self) -> Bytes {
        let text = match self.mode {
            Mode::Json => {
                let chunks: Vec<Value> =
                    self.lines.iter().map(|(_, line)| serde_json::from_str(line).unwrap()).collect();
                json!({"dataset_source": DATASET, "chunks": chunks}).to_string()
            }
            _ => self.lines.iter().map(|(_, line)| format!("{line}\n")).collect(),
        };
        if !self.packed {
            return text.into();
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap().into()
    }

    fn request(&self, url: &str) -> reqwest::RequestBuilder {
        let client = lnsp_ingest::endpoint::client_builder().build().unwrap();
        let body = self.body();
        let request = match self.mode {
            Mode::Json => client.post(format!("{url}/ingest")).header("Content-Type", "application/json"),
            _ => client
                .post(format!("{url}/ingest?dataset_source={DATASET}"))
                .header("Content-Type", "application/x-ndjson"),
        };
        let request = match self.mode {
            Mode::Stream => request.header("Accept", "application/x-ndjson"),
            _ => request,
        };
        let request = if self.packed { request.header("Content-Encoding", "gzip") } else { request };
        match self.pieces {
            Some(size) => request.body(reqwest::Body::wrap_stream(slowly(body, size))),
            None => request.body(body),
        }
    }

    /// Sends it, and gives the pieces whose outcome is decided: those that need not be sent again.
    pub async fn send(&self, state: &RoundState, url: &str) -> Vec<Piece> {
        let pieces: Vec<Piece> = self.lines.iter().filter_map(|(what, _)| what.piece()).collect();
        state.issue(&pieces).await;
        let owed = self.lines.iter().filter(|(what, _)| *what != What::Blank).count() as u64;
        state.sent(owed);
        let mut answers = Answers { state, upload: self, outcomes: BTreeMap::new() };
        let ended = answers.collect(self.request(url)).await;
        state.settled(owed - answers.outcomes.len() as u64);
        match ended {
            Ok(()) => {}
            Err(Cut::Visibly) => state.count("uploads cut"),
            Err(Cut::Wrong(what)) => state.fail(format!("an upload ({:?}) ended wrongly: {what}", self.mode)),
        }
        let decided = |(place, outcome): (&usize, &LineOutcome)| match outcome {
            LineOutcome::Error { retryable: true, .. } => None,
            _ => self.lines[*place].0.piece(),
        };
        answers.outcomes.iter().filter_map(decided).collect()
    }
}

impl What {
    fn piece(self) -> Option<Piece> {
        match self {
            What::Piece(piece) => Some(piece),
            _ => None,
        }
    }
}

/// A body in pieces with pauses.
fn slowly(body: Bytes, size: usize) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(piece), rest))
    })
}

/// How an upload ends that does not end well.
enum Cut {
    /// The connection broke, or the service said that it is not the whole answer.
    Visibly,
    /// The service pretends that this is an answer.
    Wrong(String),
}

fn wrong(what: impl Into<String>) -> Cut {
    Cut::Wrong(what.into())
}

impl Answers<'_> {
    async fn collect(&mut self, request: reqwest::RequestBuilder) -> Result<(), Cut> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                // No process listens: the service is gone, or drains.
                let pause = if error.is_connect() { KNOCK_AGAIN } else { Duration::ZERO };
                tokio::time::sleep(pause).await;
                return Err(Cut::Visibly);
            }
        };
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        if status == 200 && self.upload.mode == Mode::Stream {
            return self.stream(response).await;
        }
        let body = response.bytes().await.map_err(|_| Cut::Visibly)?;
        if status == 408 && body.is_empty() {
            // The framework's own: it gave up waiting for the head of the request.
            return Err(Cut::Visibly);
        }
        let body: Value =
            serde_json::from_slice(&body).map_err(|error| wrong(format!("{status}, {error}")))?;
        if self.upload.mode == Mode::Json && body["results"].is_array() {
            return self.results(&body).await;
        }
        match status {
            200 => self.summary(&body).await,
            429 | 503 => match retry_after {
                Some(1_u64..) => {
                    // We come sooner than we should.
                    self.state.count("uploads refused");
                    tokio::time::sleep(KNOCK_AGAIN).await;
                    Err(Cut::Visibly)
                }
                _ => Err(wrong(format!("{status} without a time to come again, {body}"))),
            },
            400 | 408 if body["error"]["retryable"] == true => Err(Cut::Visibly),
            _ => Err(wrong(format!("{status}, {body}"))),
        }
    }

    /// Lines, as they come.
    async fn stream(&mut self, response: reqwest::Response) -> Result<(), Cut> {
        let mut bytes = response.bytes_stream();
        let (mut waiting, mut summary) = (Vec::new(), None::<Value>);
        while let Some(piece) = bytes.next().await {
            waiting.extend_from_slice(&piece.map_err(|_| Cut::Visibly)?);
            let Some(end) = waiting.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = waiting.split_off(end + 1);
            let mut fresh = Vec::new();
            for line in waiting.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Value = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
                if summary.is_some() {
                    return Err(wrong(format!("after the summary comes {line}")));
                }
                match line["type"].as_str() {
                    Some("summary") => summary = Some(line),
                    _ => fresh.push((line["line"].as_u64().unwrap_or(0) as usize, line)),
                }
            }
            waiting = rest;
            for (number, line) in &fresh {
                self.note(number.wrapping_sub(1), line, &line["error"])?;
            }
            self.tell(fresh.iter().map(|(number, _)| number - 1)).await;
        }
        let summary = summary.ok_or_else(|| wrong("the stream ends in order, and without a summary"))?;
        self.agree(&summary)
    }

    /// One for all: what it does not list as an error was stored, or known.
    async fn summary(&mut self, body: &Value) -> Result<(), Cut> {
        let errors = body["errors"].as_array().ok_or_else(|| wrong(body.to_string()))?;
        for error in errors {
            let number = error["line"].as_u64().unwrap_or(0) as usize;
            self.note(number.wrapping_sub(1), &json!({"status": "error"}), error)?;
        }
        if body["complete"] == true && body["errors_truncated"] == false {
            for (place, (what, _)) in self.upload.lines.iter().enumerate() {
                if *what != What::Blank && !self.outcomes.contains_key(&place) {
                    self.outcomes.insert(place, LineOutcome::Stored);
                    self.state.settled(1);
                }
            }
        }
        let places: Vec<usize> = self.outcomes.keys().copied().collect();
        self.tell(places.into_iter()).await;
        self.agree(body)
    }

    /// Of a JSON request, in the order of the chunks.
    async fn results(&mut self, body: &Value) -> Result<(), Cut> {
        let results = body["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != self.upload.lines.len() {
            return Err(wrong(format!("{} results for {} chunks", results.len(), self.upload.lines.len())));
        }
        for (place, result) in results.iter().enumerate() {
            self.note(place, result, &result["error_detail"])?;
        }
        self.tell(0..results.len()).await;
        Ok(())
    }

    /// Takes the answer to a line in.
    fn note(&mut self, place: usize, answer: &Value, error: &Value) -> Result<(), Cut> {
        let outcome = match answer["status"].as_str() {
            Some("stored") => LineOutcome::Stored,
            Some("duplicate") => LineOutcome::Duplicate,
            Some("error") => LineOutcome::Error {
                code: error["code"].as_str().unwrap_or_default().to_owned(),
                retryable: error["retryable"] == true,
            },
            _ => return Err(wrong(format!("an answer of no kind: {answer}"))),
        };
        match self.upload.lines.get(place) {
            None | Some((What::Blank, _)) => Err(wrong(format!("an answer to no line: {answer}"))),
            Some(_) if self.outcomes.insert(place, outcome).is_some() => {
                Err(wrong(format!("a second answer to one line: {answer}")))
            }
            Some(_) => {
                self.state.settled(1);
                Ok(())
            }
        }
    }

    /// Tells the oracle of the answers to these lines.
    async fn tell(&self, places: impl Iterator<Item = usize>) {
        let mut words: [(LedgerEntry, Vec<Piece>); 4] =
            [LedgerEntry::Stored, LedgerEntry::Duplicate, LedgerEntry::Conflict, LedgerEntry::Refused]
                .map(|entry| (entry, Vec::new()));
        for place in places {
            let (what, outcome) = (self.upload.lines[place].0, &self.outcomes[&place]);
            let entry = match (what, outcome) {
                (What::Bad(wanted), LineOutcome::Error { code, .. }) if code == wanted => continue,
                (What::Bad(wanted), _) => {
                    self.state.fail(format!("a line that is {wanted} was answered {outcome:?}"));
                    continue;
                }
                (What::Blank, _) | (_, LineOutcome::Error { retryable: true, .. }) => continue,
                (_, LineOutcome::Stored) => 0,
                (_, LineOutcome::Duplicate) => 1,
                (_, LineOutcome::Error { code, .. }) if code == "id_conflict" => 2,
                (What::Piece(piece), LineOutcome::Error { code, .. }) => {
                    // A chunk can be in the hands of a stage at each of several deaths.
                    if code != "poison" {
                        self.state.fail(format!("the good piece {piece} was answered {code}"));
                    }
                    3
                }
            };
            words[entry].1.extend(what.piece());
        }
        for (entry, pieces) in words {
            self.state.answered(entry, &pieces).await;
        }
    }

    /// The summary and the answers tell the same; complete means complete.
    fn agree(&self, summary: &Value) -> Result<(), Cut> {
        let owed = self.upload.lines.iter().filter(|(what, _)| *what != What::Blank).count();
        if summary["complete"] == true {
            let failed =
                self.outcomes.values().filter(|outcome| matches!(outcome, LineOutcome::Error { .. })).count();
            let told = (summary["total_chunks"].as_u64(), summary["failed"].as_u64());
            if self.outcomes.len() != owed || told != (Some(owed as u64), Some(failed as u64)) {
                let answered = self.outcomes.len();
                return Err(wrong(format!("{owed} lines, {answered} answers, {failed} errors: {summary}")));
            }
            return Ok(());
        }
        if summary["error"]["retryable"] == true {
            Err(Cut::Visibly)
        } else {
            Err(wrong(summary.to_string()))
        }
    }
}
