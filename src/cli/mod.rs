//! The commands of `lnsp`: `serve` runs the service in this process, `simulate-llm` a language model server to try it
//! with, `bench` both in processes of their own, `model` fetches models, `doctor` looks whether a service would run
//! here, `psql` opens its database, `backup`, `restore` and `reembed` work on it, `export` can read one without a service; the others talk to a service over HTTP.

mod amounts;
mod backfill;
pub mod backup;
pub mod bench;
pub mod cpesh;
pub mod delete;
pub mod doctor;
pub mod export;
pub mod import;
pub mod ingest;
pub mod labels;
pub mod model;
pub mod model_use;
pub mod psql;
mod reached_database;
pub mod reembed;
pub mod replay;
pub mod retag;
pub mod search;
mod second_model;
pub mod serve;
mod service_request;
mod service_url;
pub mod simulate_llm;
pub mod upload;
pub mod verify;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nix::sys::signal::{SigHandler, Signal};
use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// To make a connection.
const CONNECTING: Duration = Duration::from_secs(10);

/// What a command gives: its exit code, or an error that is printed as one sentence.
pub type CommandResult = Result<std::process::ExitCode, Box<dyn Error>>;

/// An error with its causes in one line, each said once.
pub fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    sentence
}

/// The client of the commands: loopback and operator-given addresses only, so no proxy and no redirects.
fn client() -> Result<reqwest::Client, reqwest::Error> {
    let client = crate::endpoint::client_builder();
    // A machine that is gone says nothing; only asking it shows that.
    let client = client.connect_timeout(CONNECTING).tcp_keepalive(Duration::from_secs(20));
    client.tcp_keepalive_interval(Duration::from_secs(10)).tcp_keepalive_retries(3).build()
}

/// Runs a future to its end.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A read of a terminal that nobody types into would be waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// Listens for SIGINT, SIGTERM and SIGHUP, which a terminal sends when it is closed, from this call on; what it gives
/// ends with the first of them. Call it before telling anybody that there is something to stop.
fn signalled() -> impl Future<Output = ()> {
    let hangup = (!ignores_hangup()).then(SignalKind::hangup);
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup);
    let signals: Vec<_> = kinds.filter_map(|kind| signal(kind).ok()).collect();
    async move {
        let mut first: FuturesUnordered<_> =
            signals.into_iter().map(|mut signal| async move { signal.recv().await }).collect();
        if first.next().await.is_none() {
            // Without signal handlers the default applies: the signal ends the process, and the promise carries it.
            std::future::pending::<()>().await;
        }
    }
}

/// From now on SIGINT and SIGTERM do what they do to a program that does not listen: end it at once. Not so SIGHUP: of
/// a terminal that is closed, the kernel and the shell may each send one.
fn stop_listening() {
    let (default, ignore) = (SigHandler::SigDfl, SigHandler::SigIgn);
    for (each, action) in [(Signal::SIGHUP, ignore), (Signal::SIGINT, default), (Signal::SIGTERM, default)] {
        if let Err(error) = set_action(each, action) {
            tracing::warn!("a second {each} will be handled like the first: {error}");
        }
    }
}

/// Whether this process was started with SIGHUP ignored, as by `nohup`: it shall outlive its terminal.
fn ignores_hangup() -> bool {
    static IGNORED: OnceLock<bool> = OnceLock::new();
    // The action can be read only by setting one; a handler, or the default, is set right after.
    *IGNORED.get_or_init(|| matches!(set_action(Signal::SIGHUP, SigHandler::SigIgn), Ok(SigHandler::SigIgn)))
}

/// Sets what a signal does, which must be no handler; returns what it did before.
#[expect(unsafe_code, reason = "what a signal does can be set in no other way")]
fn set_action(signal: Signal, action: SigHandler) -> nix::Result<SigHandler> {
    // SAFETY: to ignore a signal and the default action are no handlers that could run into anything. A handler that
    // they take the place of is never asked for again.
    unsafe { nix::sys::signal::signal(signal, action) }
}
