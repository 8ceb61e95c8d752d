//! `lnsp serve`: starts the house, binds the port, says what runs, and takes it apart on SIGINT, SIGTERM or
//! SIGHUP.

use super::{CommandResult, signalled, stop_listening};
use crate::app::{App, Overrides, Restart, StartError};
use crate::config::{Config, InvalidSetting, variable};
use crate::http::{self, State};
use crate::output::{self, EscapedFields, Suppressed, print_error_line, print_line, report_suppressed};
use crate::pipeline::exit_at_once;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn};
use tracing_subscriber::prelude::*;

/// Why the service did not run until a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is not ours to have.
    #[error("cannot listen on {address}: {error}; {advice}")]
    Listen {
        /// The configured address.
        address: String,
        /// What the system said.
        error: std::io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// See [`StartError`].
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server failed while it ran.
    #[error("the HTTP server failed: {0}")]
    Http(std::io::Error),
}

/// Runs until a signal.
pub fn run(config: Config) -> CommandResult {
    start_log()?;
    more_descriptors();
    Ok(actix_web::rt::System::new().block_on(serve(config))?)
}

/// The filter of the log without `LNSP_LOG`.
const LOG: &str = "warn,lnsp_ingest=info";

/// The log: a line an event, on the standard error output. Nothing in it commands a terminal, and no client fills it.
fn start_log() -> Result<(), InvalidSetting> {
    let filter = variable("LNSP_LOG").unwrap_or_else(|| LOG.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        InvalidSetting::new("LNSP_LOG", &filter, format!("a log filter like {LOG} ({error})"))
    })?;
    let filter = filter.and(dynamic_filter_fn(|event, _| http::is_logged(event)));
    let lines =
        tracing_subscriber::fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal());
    let lines = lines.fmt_fields(EscapedFields).with_writer(std::io::stderr).with_filter(filter);
    tracing_subscriber::registry().with(lines).init();
    Ok(())
}

async fn serve(mut config: Config) -> Result<ExitCode, ServeError> {
    // A port in use is reported before the model is loaded; the port opens only when everything is ready.
    drop(listen(&config)?);
    let mut report = |line: String| print_line(line);
    let mut app = App::start(config.clone(), Overrides::default(), &mut report).await?;
    print_settings(&app.state);

    let listener = listen(&config)?;
    let settings = http::Settings { drain: Duration::from_secs(config.drain_s), ..http::Settings::default() };
    let mut signal = None;
    loop {
        let ready = |address| print_line(format!("✅ lnsp-ingest ready on http://{address}"));
        let door = listener.try_clone().map_err(ServeError::Http)?;
        let restart = match attend_once(app, door, settings, ready, &mut signal).await? {
            Attended::Ended(code) => return Ok(code),
            Attended::Switched(restart) => *restart,
        };
        if let Some(name) = config.embedding_model.take() {
            print_line(format!(
                "⚠️  LNSP_EMBEDDING_MODEL still names {name}: remove it, or name the other model, before the next start"
            ));
        }
        // The model of the store counts. New connections wait in the backlog of the listening socket meanwhile.
        let started = App::start_anew(config.clone(), Overrides::default(), &mut report, restart);
        app = tokio::select! {
            started = started => started?,
            // Nothing was taken since; our own PostgreSQL is stopped with what was started.
            () = ended_by(&mut signal) => return Ok(ExitCode::SUCCESS),
        };
    }
}

/// The first signal to come; it is listened for from its first use on, across switches of the model.
type EndSignal = Option<Pin<Box<dyn Future<Output = ()>>>>;

async fn ended_by(signal: &mut EndSignal) {
    signal.get_or_insert_with(|| Box::pin(signalled())).await;
}

/// How the service ended.
enum Attended {
    /// The process ends with this code.
    Ended(ExitCode),
    /// Another model was put to use.
    Switched(Box<Restart>),
}

/// Serves `app` until a signal, and then ends it in order; when not every chunk that was taken got its answer,
/// it ends the process, with code 1. `ready` is called with the address once signals are handled. When another model is
/// put to use, it ends as by a signal.
///
/// # Errors
/// When the server itself fails.
pub async fn attend(
    app: App,
    listener: TcpListener,
    settings: http::Settings,
    ready: impl FnOnce(SocketAddr),
) -> Result<ExitCode, ServeError> {
    match attend_once(app, listener, settings, ready, &mut None).await? {
        Attended::Ended(code) => Ok(code),
        Attended::Switched(_) => Ok(ExitCode::SUCCESS),
    }
}

async fn attend_once(
    app: App,
    listener: TcpListener,
    settings: http::Settings,
    ready: impl FnOnce(SocketAddr),
    signal: &mut EndSignal,
) -> Result<Attended, ServeError> {
    let (address, drain) = (listener.local_addr().map_err(ServeError::Http)?, settings.drain);
    let door = listener.try_clone().map_err(ServeError::Http)?;
    let server = http::serve(listener, app.state.clone(), settings).map_err(ServeError::Http)?;
    let handle = server.handle();
    let mut server = actix_web::rt::spawn(server);
    let reports = actix_web::rt::spawn(report_suppressed_lines());
    let signalled = signal.get_or_insert_with(|| Box::pin(signalled()));
    ready(address);
    let switched = app.state.model_switch.clone();
    let switches = tokio::select! {
        () = signalled => false,
        () = switched.ready() => true,
        ended = &mut server => {
            let ended = ended.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let why = ended.err().unwrap_or_else(|| std::io::Error::other("it ended by itself"));
            return Err(ServeError::Http(why));
        }
    };

    let (seconds, deadline) = (drain.as_secs(), Instant::now() + drain);
    let left = if switches {
        print_line("another embedding model was put to use: accepted chunks are finished, and it is loaded");
        http::drain_connections(&app.state, &handle, deadline).await
    } else {
        stop_listening();
        print_line(format!(
            "stopping: accepted chunks are finished, for {seconds} s at most; another signal ends it at once"
        ));
        http::drain(&app.state, &handle, door, deadline).await
    };
    server.abort();
    reports.abort();
    if left > 0 {
        print_error_line(format!(
            "lnsp: stopped after {seconds} s with {left} chunks unanswered, because something they need does not \
             answer (see the log); they are not acknowledged: send them again"
        ));
        app.abandon().iter().for_each(print_error_line);
        report_suppressed(Suppressed::All);
        exit_at_once(1);
    }
    if switches {
        // The next indexes may be in the same folders.
        drop(server.await);
        let (troubles, restart) = app.stop_for_restart().await;
        troubles.iter().for_each(print_error_line);
        return Ok(Attended::Switched(Box::new(restart)));
    }
    app.stop().await.iter().for_each(print_error_line);
    report_suppressed(Suppressed::All);
    print_line("stopped");
    Ok(Attended::Ended(ExitCode::SUCCESS))
}

/// Lines of the log that were left out are counted in it, also if no further line of their kind comes.
async fn report_suppressed_lines() {
    let mut again = tokio::time::interval(output::INTERVAL);
    loop {
        again.tick().await;
        report_suppressed(Suppressed::Overdue);
    }
}

/// Connections are descriptors, and what a shell allows by default is far below what the system does.
fn more_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::info!("the limit of open files stays as it is: {error}");
    }
}

fn listen(config: &Config) -> Result<TcpListener, ServeError> {
    TcpListener::bind((config.host.as_str(), config.port)).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program uses this port: stop it, or choose another with LNSP_PORT"
            }
            _ => "choose another address with LNSP_HOST and LNSP_PORT",
        };
        ServeError::Listen { address: format!("{}:{}", config.host, config.port), error, advice }
    })
}

/// The effective configuration, in the shape that users of the old service know.
fn print_settings(state: &State) {
    let (info, slots) = (&state.info, state.pipeline.slots());
    let switch = |on: bool| if on { "✅ ENABLED" } else { "⚠️  DISABLED" };
    let endpoint = info.llm_endpoint.as_deref().unwrap_or("none (the local classifier needs none)");
    for setting in [
        format!("LLM endpoint: {endpoint}"),
        format!("TMD source: {} (LNSP_TMD_BACKEND={})", state.tmd_source(), info.tmd_backend),
        "CPESH extraction: ⚠️  DISABLED (fast mode)".to_owned(),
        format!("Parallel processing: {}", switch(info.parallel)),
        format!("Max parallel workers: {}", info.max_workers),
        format!("Batch embeddings: {}", switch(info.batch_embeddings)),
        format!("Slots: {slots} chunks in flight at most"),
    ] {
        print_line(format!("   {setting}"));
    }
}
