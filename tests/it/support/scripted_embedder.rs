//! An embedding server that does what a test wants: it is slow, fails, and gives answers that are none. What it is not
//! told to spoil it answers; what it was asked is counted.

use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::Semaphore;

/// The text that is asked about at the start, and when the server may be at fault.
pub const PROBE: &str = "The quick brown fox jumps over the lazy dog.";

/// What becomes of one request; those after the last step are answered.
#[derive(Clone)]
pub enum Step {
    /// Answers with this HTTP status.
    Status(u16),
    /// No answer before the client has gone.
    Silence,
    /// Vectors of so many numbers.
    Dimensions(usize),
    /// One vector less than there are texts.
    OneLess,
    /// `null` in the vector of this text.
    Null(usize),
    /// This instead of the vector of the spoiled text.
    Instead(&'static str),
    /// Vectors that are not of unit length.
    Long,
    /// The vectors of another encoder.
    Encoder(&'static str),
    /// Something that is no JSON.
    Rubbish,
}

#[derive(Default)]
struct ServerState {
    steps: VecDeque<Step>,
    /// A request with this text takes this step, whenever it comes.
    bad: Option<(String, Step)>,
    /// After so many probes, every request takes this step.
    broken: Option<(usize, Step)>,
    /// Texts of each request, but for probes.
    requests: Vec<usize>,
    probes: usize,
    inside: usize,
    most_inside: usize,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<ServerState>>,
    door: Arc<Semaphore>,
    health: Value,
}

/// A running one, on a thread of its own.
pub struct ScriptedEmbedder {
    /// `http://127.0.0.1:port`
    pub url: String,
    shared: Shared,
    server: actix_web::dev::ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// Of its vectors.
pub const DIMS: usize = 8;

impl ScriptedEmbedder {
    /// That takes these steps, one a request.
    pub fn start(steps: impl IntoIterator<Item = Step>) -> ScriptedEmbedder {
        ScriptedEmbedder::saying(ScriptedEmbedder::health(), steps)
    }

    /// What one says of itself that is not told otherwise.
    pub fn health() -> Value {
        json!({
            "status": "healthy", "model": "scripted-base", "dimension": DIMS, "encoder": "scripted", "device": "cpu",
        })
    }

    /// That says this of itself.
    pub fn saying(health: Value, steps: impl IntoIterator<Item = Step>) -> ScriptedEmbedder {
        ScriptedEmbedder::at("127.0.0.1:0", health, steps)
    }

    /// That listens on this address.
    pub fn at(address: &str, health: Value, steps: impl IntoIterator<Item = Step>) -> ScriptedEmbedder {
        let door = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let shared = Shared { state: Arc::default(), door, health };
        shared.state.lock().unwrap().steps.extend(steps);
        let listener = std::net::TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        let data = web::Data::new(shared.clone());
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = move || {
                    let embed = web::post().to(embed);
                    let health = web::get().to(health_of);
                    App::new().app_data(data.clone()).route("/embed", embed).route("/health", health)
                };
                let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap();
                let server = server.run();
                tell.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        ScriptedEmbedder { url, shared, server: told.recv().unwrap(), thread: Some(thread) }
    }

    /// Answers each request with this text so.
    pub fn refuse_text(&self, text: &str, status: u16) {
        self.spoil_text(text, Step::Status(status));
    }

    /// Takes this step for each request with this text.
    pub fn spoil_text(&self, text: &str, step: Step) {
        self.shared.state.lock().unwrap().bad = Some((text.to_owned(), step));
    }

    /// Takes this step for every request, when there have been so many probes.
    pub fn break_after_probes(&self, probes: usize, step: Step) {
        self.shared.state.lock().unwrap().broken = Some((probes, step));
    }

    /// Answers no request until [`Self::open`].
    pub fn shut(&self) {
        self.shared.door.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers all requests from now on.
    pub fn open(&self) {
        self.shared.door.add_permits(1000);
    }

    /// The probes so far.
    pub fn probes(&self) -> usize {
        self.shared.state.lock().unwrap().probes
    }

    /// The number of texts of each request so far, but for probes.
    pub fn requests(&self) -> Vec<usize> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Requests that wait for an answer, and the most of them there have been.
    pub fn inside(&self) -> (usize, usize) {
        let state = self.shared.state.lock().unwrap();
        (state.inside, state.most_inside)
    }
}

impl Drop for ScriptedEmbedder {
    fn drop(&mut self) {
        // The future does its work when it is made.
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    texts: Vec<String>,
    normalize: bool,
}

async fn health_of(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(&shared.health)
}

/// A unit vector that depends on the text alone.
pub fn direction(text: &str) -> Vec<f32> {
    let numbers: Vec<f32> =
        blake3::hash(text.as_bytes()).as_bytes()[..DIMS].iter().map(|b| f32::from(*b) + 1.0).collect();
    let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
    numbers.iter().map(|x| x / length).collect()
}

async fn embed(question: web::Json<Question>, shared: web::Data<Shared>) -> HttpResponse {
    let Question { texts, normalize } = question.into_inner();
    assert!(normalize, "unit vectors are wanted");
    let step = {
        let mut state = shared.state.lock().unwrap();
        let broken = state.broken.as_ref().filter(|(probes, _)| state.probes >= *probes);
        let broken = broken.map(|(_, step)| step.clone());
        let probe = texts == [PROBE];
        if probe {
            state.probes += 1;
        } else {
            state.requests.push(texts.len());
        }
        state.inside += 1;
        state.most_inside = state.most_inside.max(state.inside);
        let bad = state.bad.as_ref().filter(|(bad, _)| texts.contains(bad)).map(|(_, step)| step.clone());
        let special = broken.or(bad);
        if probe { special } else { special.or_else(|| state.steps.pop_front()) }
    };
    let bad = shared.state.lock().unwrap().bad.clone();
    let spoiled = texts.iter().position(|text| bad.as_ref().is_some_and(|(bad, _)| bad == text));
    drop(shared.door.acquire().await);
    shared.state.lock().unwrap().inside -= 1;
    let mut vectors: Vec<Value> = texts.iter().map(|text| json!(direction(text))).collect();
    let mut encoder = "scripted";
    match step {
        None => {}
        Some(Step::Status(status)) => {
            let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            return response.json(json!({"detail": format!("as the script says ({status})")}));
        }
        Some(Step::Silence) => std::future::pending().await,
        Some(Step::Rubbish) => return HttpResponse::Ok().body("<html>hello</html>"),
        Some(Step::Dimensions(dims)) => vectors = vec![json!(vec![0.5; dims]); texts.len()],
        Some(Step::OneLess) => drop(vectors.pop()),
        Some(Step::Null(text)) => vectors[text][3] = Value::Null,
        Some(Step::Instead(literal)) => {
            let vectors: Vec<String> = vectors.iter().map(Value::to_string).collect();
            let with = |(place, vector)| if Some(place) == spoiled { literal } else { vector };
            let vectors: Vec<&str> = vectors.iter().map(String::as_str).enumerate().map(with).collect();
            return HttpResponse::Ok().body(format!("{{\"embeddings\": [{}]}}", vectors.join(", ")));
        }
        Some(Step::Long) => {
            let longer = |text: &String| json!(direction(text).iter().map(|x| x * 3.0).collect::<Vec<_>>());
            vectors = texts.iter().map(longer).collect();
        }
        Some(Step::Encoder(other)) => encoder = other,
    }
    let (dimension, count) = (DIMS, vectors.len());
    HttpResponse::Ok()
        .json(json!({"embeddings": vectors, "dimension": dimension, "count": count, "encoder": encoder}))
}
