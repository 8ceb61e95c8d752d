//! The server: connections, their limits, and the routes.

use crate::http::dead_letters;
use crate::http::embed;
use crate::http::ingest;
use crate::http::limits::availability;
use crate::http::ops;
use crate::http::request_id;
use crate::http::search;
use crate::http::state::Settings;
use crate::http::state::State;
use crate::metrics;
use actix_http::{HttpService, Request};
use actix_service::map_config;
use actix_web::dev::{AppConfig, Extensions, Server, fn_service};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpMessage, HttpResponse, web};
use nix::sys::resource::{Resource, getrlimit};
use std::future::ready;
use std::net::TcpListener;
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// More connections than this are not useful to anybody, whatever the system allows.
const MAX_CONNECTIONS: usize = 50_000;

/// A server on `listener`. It ends by its handle.
///
/// Built from the framework's parts, and not by its `HttpServer`, for one reason: a client that asks with
/// `Expect: 100-continue` is refused before it sends its body.
///
/// # Errors
/// The operating system's, for the listener.
pub fn serve(listener: TcpListener, state: web::Data<State>, settings: Settings) -> std::io::Result<Server> {
    availability::post(&state);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let builder = Server::build()
        .workers(workers)
        .backlog(BACKLOG)
        .max_concurrent_connections((connections() / workers).max(1))
        .shutdown_timeout(settings.drain.as_secs().max(1))
        .disable_signals();
    let ending = builder.graceful_shutdown_signal();
    let settings = web::Data::new(settings);
    let builder = builder.listen("lnsp", listener, move || {
        let (state, settings, ending) = (state.clone(), settings.clone(), ending.clone());
        let asked = state.clone();
        let (head, keep_alive, linger) = (settings.head, settings.keep_alive, settings.linger);
        let cut_after = settings.cut_after;
        let app = App::new().app_data(state).app_data(settings).configure(routes);
        HttpService::build()
            .graceful_shutdown_signal(move || {
                let ending = ending.clone();
                async move { ending.notified().await }
            })
            .client_request_timeout(head)
            .keep_alive(keep_alive)
            .client_disconnect_timeout(linger)
            .on_connect_ext(move |socket: &TcpStream, extensions: &mut Extensions| {
                prepare(socket, cut_after);
                extensions.insert(metrics::connection());
            })
            .expect(fn_service(move |request| ready(expect_continue(request, &asked))))
            .h1(map_config(app, |()| AppConfig::default()))
            .tcp()
    })?;
    Ok(builder.run())
}

/// So many that files, database and language model find descriptors too.
fn connections() -> usize {
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    (allowed - (allowed / 8).max(256).min(allowed)).min(MAX_CONNECTIONS)
}

/// The answer to a client that asks before it sends a body.
#[expect(
    clippy::result_large_err,
    reason = "the framework asks for these types, and only a refusal is large"
)]
fn expect_continue(mut request: Request, state: &State) -> Result<Request, HttpResponse> {
    let upload = request.method() == Method::POST && request.path() == "/ingest";
    match upload.then(|| ingest::objection(request.headers(), state)).flatten() {
        Some(error) => Err(request_id::refuse(&mut request, &error)),
        None => Ok(request),
    }
}

/// Short answers go out at once, and a client that takes nothing is given up: the framework waits for it for ever.
fn prepare(socket: &TcpStream, cut_after: Duration) {
    if let Err(error) = socket.set_nodelay(true).and_then(|()| limit_unread(socket, cut_after)) {
        tracing::debug!(
            "a connection ended as it began, or has no limit for clients that do not read: {error}"
        );
    }
}

#[cfg(target_os = "linux")]
fn limit_unread(socket: &TcpStream, limit: Duration) -> std::io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
    let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(socket, TcpUserTimeout, &limit)?)
}

/// Other systems have no such limit; the upload itself ends there too, only its connection stays.
#[cfg(not(target_os = "linux"))]
fn limit_unread(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
}

fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("")
            .wrap(from_fn(request_id::stamp))
            .route("/", web::get().to(ops::about))
            .route("/ingest", web::post().to(ingest::ingest))
            .route("/search", web::post().to(search::search))
            .route("/embed", web::post().to(embed::embed))
            .route("/embed/single", web::post().to(embed::single))
            .route("/dead-letters", web::get().to(dead_letters::dead_letters))
            .route("/health", web::get().to(ops::health))
            .route("/ready", web::get().to(ops::ready))
            .route("/stats", web::get().to(ops::stats))
            .route("/metrics", web::get().to(ops::metrics))
            .default_service(web::to(ops::not_found)),
    );
}
