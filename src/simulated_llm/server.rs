//! The HTTP server: Ollama's calls, and `/counts` for the counters.

use super::completion::complete;
use super::fault::Fault;
use super::options::Options;
use super::request::{Format, GenerateRequest};
use super::state::ServerState;
use super::wire::{self, CallTimes};
use actix_web::dev::Server;
use actix_web::http::KeepAlive;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::stream;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
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
pub fn listen(options: &Options, state: &Arc<ServerState>) -> io::Result<(Server, SocketAddr)> {
    let state = web::Data::from(state.clone());
    let server = HttpServer::new(move || App::new().app_data(state.clone()).configure(routes))
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

fn routes(config: &mut web::ServiceConfig) {
    config
        .app_data(web::PayloadConfig::new(MAX_BODY))
        .route("/", web::get().to(async || "Ollama is running"))
        .route("/", web::head().to(HttpResponse::Ok))
        .route("/api/version", web::get().to(version))
        .route("/api/tags", web::get().to(tags))
        .route("/api/generate", web::post().to(generate))
        .route("/counts", web::get().to(counts))
        .default_service(web::to(async || HttpResponse::NotFound().body("404 page not found")));
}

/// A duplicate of the socket of a connection, used to reset it.
struct ClientSocket(OwnedFd);

async fn version() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "version": "0.0.0-simulated" }))
}

async fn tags(state: web::Data<ServerState>) -> HttpResponse {
    HttpResponse::Ok().json(wire::tags(state.models()))
}

async fn counts(state: web::Data<ServerState>) -> HttpResponse {
    HttpResponse::Ok().json(state.counts())
}

async fn generate(
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
    state: web::Data<ServerState>,
) -> HttpResponse {
    let came = Instant::now();
    let ask = body.map_err(|error| error.to_string());
    let ask = ask
        .and_then(|body| serde_json::from_slice::<GenerateRequest>(&body).map_err(|error| error.to_string()));
    let ask = match ask {
        Ok(ask) => ask,
        Err(error) => return HttpResponse::BadRequest().json(wire::error(error)),
    };
    if !state.has(&ask.model) {
        return not_found(&ask.model);
    }
    if ask.prompt().is_empty() {
        state.loaded();
        return HttpResponse::Ok().json(wire::load(&ask.model));
    }
    if ask.format == Format::Invalid {
        let error = wire::error("invalid format: expected \"json\" or a JSON schema");
        return HttpResponse::InternalServerError().json(error);
    }
    let fault = state.received();
    if let Some(fault) = fault.filter(|fault| !fault.takes_a_slot()) {
        return fail(fault, &request, &ask).await;
    }
    let held = state.slot().await;
    let started = Instant::now();
    actix_web::rt::time::sleep(state.latency()).await;
    let times = CallTimes { waited: started - came, held: started.elapsed() };
    let answer = complete(&ask, fault);
    if fault.is_none() {
        state.answered();
    }
    let response = match (fault, ask.stream()) {
        (Some(Fault::Huge), _) => json().streaming(parts(wire::huge(&ask.model))),
        (_, false) => json().json(wire::whole(&ask, &answer, &times)),
        (_, true) => HttpResponse::Ok()
            .content_type("application/x-ndjson")
            .streaming(parts(wire::lines(&ask, &answer, &times).into_iter())),
    };
    drop(held);
    response
}

/// The response to a fault that occurs before the model.
async fn fail(fault: Fault, request: &HttpRequest, ask: &GenerateRequest) -> HttpResponse {
    match fault {
        Fault::Hang => std::future::pending().await,
        Fault::Busy503 => HttpResponse::ServiceUnavailable()
            .json(wire::error("server busy, please try again.  maximum pending requests exceeded")),
        Fault::Html => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .body("<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Your network asks you to sign in.</body></html>\n"),
        Fault::Garbage => json().body("\u{1}\u{7f}}{]\"not json, whatever the header says"),
        Fault::Redirect => {
            HttpResponse::Found().insert_header(("Location", "http://elsewhere.invalid/api/generate")).finish()
        }
        Fault::ModelGone => not_found(&ask.model),
        Fault::Reset => {
            if let Some(socket) = request.conn_data::<ClientSocket>() {
                // If this fails, the connection is still closed without a response.
                drop(reset_on_close(socket));
            }
            // The body fails before its first byte, so actix closes the connection without sending the headers.
            let broken = stream::iter([Err::<Bytes, _>(io::Error::other("injected reset"))]);
            HttpResponse::Ok().streaming(broken)
        }
        // Faults of the model are not handled here.
        _ => HttpResponse::InternalServerError().json(wire::error("model runner has unexpectedly stopped")),
    }
}

/// Makes closing the connection send a reset (`SO_LINGER` of 0 seconds).
fn reset_on_close(socket: &ClientSocket) -> io::Result<()> {
    let socket = std::net::TcpStream::from(socket.0.try_clone()?);
    actix_web::rt::net::TcpStream::from_std(socket)?.set_zero_linger()
}

fn not_found(model: &str) -> HttpResponse {
    HttpResponse::NotFound().json(wire::error(format!("model '{model}' not found")))
}

fn json() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type("application/json; charset=utf-8");
    response
}

fn parts(
    parts: impl Iterator<Item = Bytes> + 'static,
) -> impl stream::Stream<Item = Result<Bytes, io::Error>> + 'static {
    stream::iter(parts.map(Ok))
}
