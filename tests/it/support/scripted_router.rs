//! A TMD router in the shape of the old one, whose answer to `POST /extract-tmd` a test decides.

use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What it answers from now on.
#[derive(Clone)]
pub enum RouterAnswer {
    /// These codes.
    Codes(i64, i64, i64),
    /// This HTTP status, with FastAPI's error.
    Status(u16),
    /// This body, with status 200.
    Body(&'static str),
    /// No answer before the client has gone.
    Silence,
}

struct RouterState {
    answer: RouterAnswer,
    /// The bodies of the requests.
    asked: Vec<Value>,
}

type Shared = Arc<Mutex<RouterState>>;

/// A running one, on a thread of its own.
pub struct ScriptedRouter {
    /// `http://127.0.0.1:port`
    pub url: String,
    state: Shared,
    server: actix_web::dev::ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedRouter {
    /// That gives this answer until it is told another.
    pub fn start(answer: RouterAnswer) -> ScriptedRouter {
        let state: Shared = Arc::new(Mutex::new(RouterState { answer, asked: Vec::new() }));
        let (tell, told) = std::sync::mpsc::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let app = move || {
                let health =
                    async || HttpResponse::Ok().json(json!({"status": "healthy", "cache_enabled": true}));
                App::new()
                    .app_data(web::Data::new(shared.clone()))
                    .route("/health", web::get().to(health))
                    .route("/extract-tmd", web::post().to(extract))
            };
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                tell.send((server.handle(), address)).unwrap();
                server.await.unwrap();
            });
        });
        let (server, address) = told.recv().unwrap();
        ScriptedRouter { url: format!("http://{address}"), state, server, thread: Some(thread) }
    }

    /// From now on it gives this answer.
    pub fn set_answer(&self, answer: RouterAnswer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// The bodies of the requests so far.
    pub fn asked(&self) -> Vec<Value> {
        self.state.lock().unwrap().asked.clone()
    }
}

impl Drop for ScriptedRouter {
    fn drop(&mut self) {
        drop(self.server.stop(false));
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn extract(state: web::Data<Shared>, body: web::Json<Value>) -> HttpResponse {
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(body.0.clone());
        state.answer.clone()
    };
    match answer {
        RouterAnswer::Codes(domain, task, modifier) => HttpResponse::Ok().json(json!({
            "concept_text": body["concept_text"], "domain_code": domain, "domain_name": "Science",
            "task_code": task, "modifier_code": modifier,
        })),
        RouterAnswer::Status(status) => HttpResponse::build(StatusCode::from_u16(status).unwrap())
            .json(json!({"detail": "TMD extraction failed: connection refused"})),
        RouterAnswer::Body(text) => HttpResponse::Ok().content_type("application/json").body(text),
        RouterAnswer::Silence => std::future::pending().await,
    }
}
