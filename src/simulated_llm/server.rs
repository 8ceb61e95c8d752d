//! The HTTP face: Ollama's calls, and one of our own for the numbers.

use super::Options;
use super::answer::answer;
use super::ask::{Ask, Format};
use super::desk::Desk;
use super::fault::Fault;
use super::wire::{self, Times};
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

/// Connections that wait to be accepted: a burst of calls must not be told to come back a second later.
const BACKLOG: u32 = 4096;
/// The longest body.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Clients keep their connections between two uploads.
const KEEP: Duration = Duration::from_secs(600);

/// Listens where the options say. One thread serves: the work on a call is microseconds, the rest is waiting.
///
/// A client that closes or resets its connection ends its call, in the queue or in a slot, as soon as the socket says
/// so. A client that vanishes without a word (its machine lost power) is not noticed: its call takes its time.
pub fn listen(options: &Options, desk: &Arc<Desk>) -> io::Result<(Server, SocketAddr)> {
    let desk = web::Data::from(desk.clone());
    let server = HttpServer::new(move || App::new().app_data(desk.clone()).configure(routes))
        .workers(1)
        .backlog(BACKLOG)
        .keep_alive(KeepAlive::Timeout(KEEP))
        .tcp_nodelay(true)
        // By default actix lets the call of a client that has closed its connection go on.
        .h1_allow_half_closed(false)
        .disable_signals()
        .on_connect(|connection, facts| {
            let socket = connection.downcast_ref::<actix_web::rt::net::TcpStream>();
            if let Some(socket) = socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok()) {
                facts.insert(Socket(socket));
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

/// The connection of a request once more, to end it from outside.
struct Socket(OwnedFd);

async fn version() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "version": "0.0.0-simulated" }))
}

async fn tags(desk: web::Data<Desk>) -> HttpResponse {
    HttpResponse::Ok().json(wire::tags(desk.models()))
}

async fn counts(desk: web::Data<Desk>) -> HttpResponse {
    HttpResponse::Ok().json(desk.counts())
}

async fn generate(
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    let came = Instant::now();
    let ask = body.map_err(|error| error.to_string());
    let ask = ask.and_then(|body| serde_json::from_slice::<Ask>(&body).map_err(|error| error.to_string()));
    let ask = match ask {
        Ok(ask) => ask,
        Err(error) => return HttpResponse::BadRequest().json(wire::error(error)),
    };
    if !desk.has(&ask.model) {
        return not_found(&ask.model);
    }
    if ask.prompt().is_empty() {
        desk.loaded();
        return HttpResponse::Ok().json(wire::load(&ask.model));
    }
    if ask.format == Format::Invalid {
        let error = wire::error("invalid format: expected \"json\" or a JSON schema");
        return HttpResponse::InternalServerError().json(error);
    }
    let fault = desk.received();
    if let Some(fault) = fault.filter(|fault| !fault.takes_a_slot()) {
        return fail(fault, &request, &ask).await;
    }
    let held = desk.slot().await;
    let started = Instant::now();
    actix_web::rt::time::sleep(desk.latency()).await;
    let times = Times { waited: started - came, held: started.elapsed() };
    let answer = answer(&ask, fault);
    if fault.is_none() {
        desk.answered();
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

/// The faults in front of the model.
async fn fail(fault: Fault, request: &HttpRequest, ask: &Ask) -> HttpResponse {
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
            if let Some(socket) = request.conn_data::<Socket>() {
                // If it cannot be made abrupt, the connection is still closed without an answer.
                drop(make_abrupt(socket));
            }
            // A body that fails before its first byte: actix closes the connection, and the head was never sent.
            let broken = stream::iter([Err::<Bytes, _>(io::Error::other("reset as told"))]);
            HttpResponse::Ok().streaming(broken)
        }
        // The model's own faults do not come here.
        _ => HttpResponse::InternalServerError().json(wire::error("model runner has unexpectedly stopped")),
    }
}

/// From now on closing the connection resets it.
fn make_abrupt(socket: &Socket) -> io::Result<()> {
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
