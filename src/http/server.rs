//! The server: connections, their limits, and the routes.

use crate::http::connection::Socket;
use crate::http::limits::availability;
use crate::http::origin::AllowedHosts;
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::http::{framework, ingest, request_id, routes};
use crate::metrics;
use actix_http::{HttpService, Request};
use actix_service::{ServiceFactoryExt, map_config};
use actix_web::dev::{AppConfig, Extensions, Server, fn_service};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpMessage, HttpResponse, web};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{Backlog, listen};
use std::future::ready;
use std::net::TcpListener;
use std::time::Duration;

/// Connections that may wait to be accepted. The system may allow fewer (Linux: `net.core.somaxconn`).
const BACKLOG: i32 = 1024;
/// The maximum number of connections, even if the system allows more.
const MAX_CONNECTIONS: usize = 50_000;

/// Starts a server on `listener`. Its handle stops it.
///
/// It is built from the parts of the framework instead of its `HttpServer`, so that a client with
/// `Expect: 100-continue` is refused before it sends its body.
///
/// # Errors
/// The error of the operating system for the listener.
pub fn serve(listener: TcpListener, state: web::Data<State>, settings: Settings) -> std::io::Result<Server> {
    availability::start_monitor(&state);
    // The framework applies a backlog only to sockets that it binds itself, and the standard library listens with 128.
    listen(&listener, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections((connections() / workers).max(1))
        .shutdown_timeout(settings.drain.as_secs().max(1))
        .disable_signals();
    let ending = builder.graceful_shutdown_signal();
    let hosts = AllowedHosts::new(listener.local_addr()?, &state.info.allowed_hosts);
    let settings = web::Data::new(settings);
    let builder = builder.listen("lnsp", listener, move || {
        let (state, settings, ending) = (state.clone(), settings.clone(), ending.clone());
        let shared = state.clone();
        let (head, keep_alive, linger) = (settings.head, settings.keep_alive, settings.linger);
        let unacknowledged = settings.unacknowledged;
        let limits = settings.clone();
        // Around the whole application: a target without a path is answered by its default service.
        let around = from_fn(request_id::around_handler);
        let app = App::new().app_data(state).app_data(settings).app_data(hosts.clone());
        let app = app.configure(routes::configure).wrap(around);
        let socket = move |stream: TcpStream| {
            let address = stream.peer_addr().ok();
            ready(Ok((Socket::new(stream, &limits), address)))
        };
        let service = HttpService::build()
            .graceful_shutdown_signal(move || {
                let ending = ending.clone();
                async move { ending.notified().await }
            })
            .client_request_timeout(head)
            .keep_alive(keep_alive)
            .client_disconnect_timeout(linger)
            .on_connect_ext(move |socket: &Socket, extensions: &mut Extensions| {
                prepare(socket.stream(), unacknowledged);
                extensions.insert(socket.connection().clone());
                extensions.insert(metrics::connection());
            })
            .expect(fn_service(move |request| ready(expect_continue(request, &shared))))
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(socket).and_then(service).map_err(framework::ended)
    })?;
    Ok(builder.run())
}

/// The limit of connections: it leaves descriptors for files, the database and the language model.
fn connections() -> usize {
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    (allowed - (allowed / 8).max(256).min(allowed)).min(MAX_CONNECTIONS)
}

/// Answers a client that waits for `100 Continue` before it sends a body.
#[expect(
    clippy::result_large_err,
    reason = "the framework asks for these types, and only a refusal is large"
)]
fn expect_continue(mut request: Request, state: &State) -> Result<Request, HttpResponse> {
    let upload = request.method() == Method::POST && request.path() == "/ingest";
    match upload.then(|| ingest::refusal(request.headers(), state)).flatten() {
        Some(error) => Err(request_id::refuse(&mut request, &error)),
        None => Ok(request),
    }
}

/// Sends short answers at once, and limits the time for which a client acknowledges nothing. The framework has no such
/// limit.
fn prepare(socket: &TcpStream, unacknowledged: Duration) {
    if let Err(error) = socket.set_nodelay(true).and_then(|()| limit_unread(socket, unacknowledged)) {
        tracing::debug!(
            "a connection ended at its start, or has no limit for clients that do not read: {error}"
        );
    }
}

#[cfg(target_os = "linux")]
fn limit_unread(socket: &TcpStream, limit: Duration) -> std::io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
    let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(socket, TcpUserTimeout, &limit)?)
}

/// Other systems have no such limit. The upload still ends there; only its connection stays open.
#[cfg(not(target_os = "linux"))]
fn limit_unread(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
}
