//! The HTTP server: Ollama's calls, the OpenAI-compatible ones, `/counts` for the counters, and `/faulty` for the prompts
//! of calls with a fault.

use super::ask::Ask;
use super::call::{self, ClientSocket, Wire};
use super::ollama::{self, IncomingGenerate, IncomingShow};
use super::openai::{self, IncomingChat};
use super::options::{Options, ServerApi};
use super::state::SimulatedState;
use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::{KeepAlive, StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The accept backlog. It is large, because a refused SYN in a burst of calls is retried only after a second.
const BACKLOG: u32 = 4096;
/// The longest request body, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// The keep-alive time of idle connections, so that clients keep them between uploads.
const KEEP: Duration = Duration::from_secs(600);

/// Binds the address of the options. One thread serves all calls, since each needs only microseconds of CPU time.
///
/// When a client closes or resets its connection, its call is cancelled, in the queue or in a slot. A client that
/// vanishes without closing (power loss) is not noticed; its call runs to its end.
pub fn listen(options: &Options, state: &Arc<SimulatedState>) -> io::Result<(Server, SocketAddr)> {
    let (state, api) = (web::Data::from(state.clone()), options.api);
    let app = move || {
        App::new().app_data(state.clone()).configure(|config| routes(config, api)).wrap(from_fn(authorize))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .backlog(BACKLOG)
        .keep_alive(KeepAlive::Timeout(KEEP))
        .tcp_nodelay(true)
        // By default, actix continues a call after its client has closed the connection.
        .h1_allow_half_closed(false)
        .disable_signals()
        .on_connect(|connection, data| {
            let socket = connection.downcast_ref::<actix_web::rt::net::TcpStream>();
            if let Some(socket) = socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok()) {
                data.insert(ClientSocket(socket));
            }
        })
        .bind((options.host.as_str(), options.port))?;
    let address = server.addrs().first().copied();
    let address = address.ok_or_else(|| io::Error::other("the listener has no address"))?;
    Ok((server.run(), address))
}

fn routes(config: &mut web::ServiceConfig, api: ServerApi) {
    config
        .app_data(web::PayloadConfig::new(MAX_BODY))
        .route("/v1/models", web::get().to(v1_models))
        .route("/v1/chat/completions", web::post().to(chat))
        .route("/counts", web::get().to(counts))
        .route("/faulty", web::get().to(faulty))
        .default_service(web::to(async || HttpResponse::NotFound().body("404 page not found")));
    if api == ServerApi::Ollama {
        config
            .route("/", web::get().to(async || "Ollama is running"))
            .route("/", web::head().to(HttpResponse::Ok))
            .route("/api/version", web::get().to(version))
            .route("/api/tags", web::get().to(tags))
            .route("/api/show", web::post().to(show))
            .route("/api/generate", web::post().to(generate));
    }
}

/// Refuses calls of either API without the key, if the server has one.
async fn authorize(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let wire = match request.path() {
        path if path.starts_with("/v1/") => Some(Wire::OpenAi),
        path if path.starts_with("/api/") => Some(Wire::Ollama),
        _ => None,
    };
    let key = request.headers().get(header::AUTHORIZATION).and_then(|key| key.to_str().ok());
    let authorized = request
        .app_data::<web::Data<SimulatedState>>()
        .is_none_or(|state| wire.is_none() || state.authorizes(key));
    match wire {
        Some(wire) if !authorized => {
            let refused =
                wire.error(401, "unauthorized: expected a valid API key in the header Authorization");
            Ok(request.into_response(refused).map_into_right_body())
        }
        _ => Ok(next.call(request).await?.map_into_left_body()),
    }
}

async fn version() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "version": "0.0.0-simulated" }))
}

async fn tags(state: web::Data<SimulatedState>) -> HttpResponse {
    let capabilities = state.capabilities_in_tags().then(|| state.capabilities());
    HttpResponse::Ok().json(ollama::tags(state.models(), capabilities))
}

async fn show(body: Result<Bytes, actix_web::Error>, state: web::Data<SimulatedState>) -> HttpResponse {
    match read::<IncomingShow>(&body) {
        Err(error) => Wire::Ollama.error(400, &error),
        Ok(request) if !state.has(&request.model) => Wire::Ollama.no_model(&request.model),
        Ok(_) => HttpResponse::Ok().json(ollama::show(state.capabilities())),
    }
}

async fn v1_models(state: web::Data<SimulatedState>) -> HttpResponse {
    HttpResponse::Ok().json(openai::models(state.models(), state.api()))
}

async fn counts(state: web::Data<SimulatedState>) -> HttpResponse {
    HttpResponse::Ok().json(state.counts())
}

async fn faulty(state: web::Data<SimulatedState>) -> HttpResponse {
    HttpResponse::Ok().json(state.faulty_prompts())
}

async fn generate(
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
    state: web::Data<SimulatedState>,
) -> HttpResponse {
    let came = Instant::now();
    note(&body, &state);
    match read::<IncomingGenerate>(&body) {
        Ok(asked) => call::answer(Wire::Ollama, Ask::from(asked), &request, &state, came).await,
        Err(error) => Wire::Ollama.error(400, &error),
    }
}

async fn chat(
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
    state: web::Data<SimulatedState>,
) -> HttpResponse {
    let came = Instant::now();
    note(&body, &state);
    let asked = match read::<IncomingChat>(&body) {
        Ok(asked) => asked,
        // As in llama-cpp-python, whose errors of malformed bodies are plain text.
        Err(error) if state.api() == ServerApi::JsonObject => {
            return HttpResponse::InternalServerError().body(error);
        }
        Err(error) => return Wire::OpenAi.error(400, &error),
    };
    match asked.into_ask(state.api()) {
        Ok(ask) => call::answer(Wire::OpenAi, ask, &request, &state, came).await,
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
            HttpResponse::build(status).json(refused.body)
        }
    }
}

fn note(body: &Result<Bytes, actix_web::Error>, state: &SimulatedState) {
    if let Ok(body) = body {
        state.note_request(body);
    }
}

fn read<T: DeserializeOwned>(body: &Result<Bytes, actix_web::Error>) -> Result<T, String> {
    let body = body.as_ref().map_err(ToString::to_string)?;
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
