//! A service that does what a test wants: it refuses, cuts, hangs, and says of any chunk that it should come again.
//! What it is not told to spoil it takes, once each; what it was sent is counted.

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use lnsp_ingest::wire::{ContentEncoding, Inflate, LineDecoder};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What becomes of one upload; those after the last step are taken.
pub enum Step {
    /// 429 with this `Retry-After` until so many seconds have passed since the first of them.
    PutOff(u64),
    /// This status, once.
    Refuse(u16),
    /// The connection breaks after so many answers, when the test says so.
    CutAfter(usize, Arc<Notify>),
    /// The summary comes after so many answers, and says that it is not complete.
    EndAfter(usize),
}

#[derive(Default)]
struct ServerState {
    steps: VecDeque<Step>,
    first_put_off: Option<Instant>,
    /// Texts that are answered with `llm_failed` so many times more.
    unwilling: HashMap<String, usize>,
    /// How often each text was stored.
    stored: HashMap<String, usize>,
    uploads: Vec<Vec<(u64, String)>>,
    refused: usize,
    /// Lines that were answered, of all uploads together.
    answered: usize,
    /// What it says in `/stats` limits its rate.
    limited_by: Option<String>,
    /// The bodies of lines as they came, if they are kept.
    bodies: Option<Vec<Value>>,
}

type Shared = Arc<Mutex<ServerState>>;

/// A running one, on a thread of its own.
pub struct ScriptedService {
    /// `http://127.0.0.1:port`
    pub url: String,
    state: Shared,
    server: actix_web::dev::ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedService {
    /// That takes these steps, one an upload.
    pub fn start(steps: impl IntoIterator<Item = Step>) -> ScriptedService {
        let state = Shared::default();
        state.lock().unwrap().steps.extend(steps);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        let data = web::Data::new(state.clone());
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = move || {
                    let stats = web::get().to(stats);
                    App::new()
                        .app_data(data.clone())
                        .route("/ingest", web::post().to(ingest))
                        .route("/stats", stats)
                };
                let server =
                    HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
                tell.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        ScriptedService { url, state, server: told.recv().unwrap(), thread: Some(thread) }
    }

    /// Answers so many times that this text should be sent again.
    pub fn refuse_text(&self, text: &str, times: usize) {
        self.state.lock().unwrap().unwilling.insert(text.to_owned(), times);
    }

    /// What it says that its rate is limited by.
    pub fn set_limited_by(&self, what: &str) {
        self.state.lock().unwrap().limited_by = Some(what.to_owned());
    }

    /// Lines that were answered, of all uploads together.
    pub fn answered(&self) -> usize {
        self.state.lock().unwrap().answered
    }

    /// The chunks that came from now on.
    pub fn keep_bodies(&self) {
        self.state.lock().unwrap().bodies = Some(Vec::new());
    }

    /// The chunks that came since [`Self::keep_bodies`].
    pub fn bodies(&self) -> Vec<Value> {
        self.state.lock().unwrap().bodies.clone().unwrap()
    }

    /// The lines of each upload that was taken, blank ones left out: number and text.
    pub fn uploads(&self) -> Vec<Vec<(u64, String)>> {
        self.state.lock().unwrap().uploads.clone()
    }

    /// Uploads that were refused before their first byte.
    pub fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// How many texts were stored, each of which must have been stored once.
    pub fn stored(&self) -> usize {
        let state = self.state.lock().unwrap();
        assert!(state.stored.values().all(|times| *times == 1));
        state.stored.len()
    }
}

impl Drop for ScriptedService {
    fn drop(&mut self) {
        // Uploads that hang do not end by themselves. The future does its work when it is made.
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn stats(state: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"limited_by": state.lock().unwrap().limited_by}))
}

fn refusal(status: u16, wait: Option<u64>) -> HttpResponse {
    let mut response = HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap());
    if let Some(wait) = wait {
        response.insert_header(("Retry-After", wait.to_string()));
    }
    response.json(json!({"error": {"code": "test", "message": format!("as the script says ({status})")}}))
}

async fn ingest(request: HttpRequest, payload: web::Payload, state: web::Data<Shared>) -> HttpResponse {
    let (limit, end) = {
        let mut now = state.lock().unwrap();
        let first = now.first_put_off;
        match now.steps.front() {
            Some(Step::PutOff(wait)) => {
                let wait = *wait;
                if first.is_none_or(|first| first.elapsed() < Duration::from_secs(wait)) {
                    now.first_put_off.get_or_insert_with(Instant::now);
                    now.refused += 1;
                    return refusal(429, Some(wait));
                }
                now.steps.pop_front();
                (usize::MAX, None)
            }
            Some(Step::Refuse(status)) => {
                let status = *status;
                now.steps.pop_front();
                now.refused += 1;
                return refusal(status, None);
            }
            Some(Step::CutAfter(limit, gate)) => {
                let step = (*limit, Some(gate.clone()));
                now.steps.pop_front();
                step
            }
            Some(Step::EndAfter(limit)) => {
                let step = (*limit, None);
                now.steps.pop_front();
                step
            }
            None => (usize::MAX, None),
        }
    };
    let encoding = request.headers().get("Content-Encoding").map_or("identity", |v| v.to_str().unwrap());
    let mut number = state.lock().unwrap();
    number.uploads.push(Vec::new());
    let upload = Upload {
        state: state.get_ref().clone(),
        number: number.uploads.len() - 1,
        payload,
        inflate: Inflate::new(ContentEncoding::from_header(encoding).unwrap()).unwrap(),
        lines: LineDecoder::default(),
        whole: false,
        answered: 0,
        limit,
        cut: end,
    };
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(upload.answers())
}

struct Upload {
    state: Shared,
    number: usize,
    payload: web::Payload,
    inflate: Inflate,
    lines: LineDecoder,
    whole: bool,
    answered: usize,
    limit: usize,
    cut: Option<Arc<Notify>>,
}

impl Upload {
    fn answers(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(Some(self), |upload| async {
            let mut upload = upload?;
            let (answer, more) = match upload.next().await {
                Ok((answer, more)) => (Ok(format!("{answer}\n").into()), more),
                Err(error) => (Err(error), false),
            };
            Some((answer, more.then_some(upload)))
        })
    }

    /// The next line of the answer, and whether there is one after it.
    async fn next(&mut self) -> io::Result<(Value, bool)> {
        if self.answered == self.limit {
            let Some(gate) = &self.cut else {
                let error =
                    json!({"code": "incomplete_body", "message": "cut by the script", "retryable": true});
                return Ok((json!({"type": "summary", "complete": false, "error": error}), false));
            };
            gate.notified().await;
            return Err(io::Error::other("cut by the script"));
        }
        loop {
            let line = match self.lines.next_line() {
                // A body that was cut off has no last line: what is left is a piece of one.
                None if self.whole && self.inflate.finish().is_ok() => self.lines.last_line(),
                line => line,
            };
            if let Some((number, line)) = line {
                self.answered += 1;
                return Ok((self.answer(number, &line.unwrap()), true));
            }
            if self.whole {
                return Ok((self.summary(), false));
            }
            match self.payload.next().await {
                Some(piece) => self.feed(&piece.map_err(io::Error::other)?),
                None => self.whole = true,
            }
        }
    }

    fn summary(&self) -> Value {
        match self.inflate.finish() {
            Ok(()) => json!({"type": "summary", "complete": true}),
            Err(damage) => {
                let error =
                    json!({"code": "corrupt_body", "message": damage.to_string(), "retryable": false});
                json!({"type": "summary", "complete": false, "error": error})
            }
        }
    }

    fn feed(&mut self, mut piece: &[u8]) {
        let mut inflated = vec![0; 64 * 1024];
        loop {
            let written = self.inflate.step(&mut piece, &mut inflated).unwrap();
            self.lines.feed(&inflated[..written]);
            if piece.is_empty() && written < inflated.len() {
                return;
            }
        }
    }

    fn answer(&self, number: u64, line: &[u8]) -> Value {
        let mut state = self.state.lock().unwrap();
        state.answered += 1;
        let chunk: Value = serde_json::from_slice(line).unwrap();
        let text = chunk["text"].as_str().unwrap().to_owned();
        if let Some(bodies) = &mut state.bodies {
            bodies.push(chunk);
        }
        state.uploads[self.number].push((number, text.clone()));
        let error = |code: &str, retryable: bool| {
            let error = json!({"code": code, "message": "as the script says", "retryable": retryable});
            json!({"type": "result", "line": number, "status": "error", "error": error})
        };
        if text.is_empty() {
            return error("text_empty", false);
        }
        if let Some(times) = state.unwilling.get_mut(&text)
            && *times > 0
        {
            *times -= 1;
            return error("llm_failed", true);
        }
        let known = state.stored.contains_key(&text);
        if !known {
            state.stored.insert(text, 1);
        }
        json!({"type": "result", "line": number, "status": if known { "duplicate" } else { "stored" }})
    }
}
