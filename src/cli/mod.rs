//! The commands of `lnsp`: `serve` runs the service in this process, `simulate-llm` a language model server to try it
//! with, `bench` both in processes of their own, `model` fetches models, `doctor` looks whether a service would run
//! here; the others talk to one over HTTP.

pub mod bench;
pub mod doctor;
pub mod ingest;
pub mod model;
pub mod replay;
pub mod search;
pub mod serve;
pub mod simulate_llm;

use nix::sys::signal::{SigHandler, Signal};
use std::error::Error;
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
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
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

/// Listens for SIGINT and SIGTERM from this call on; what it gives ends with the first of them. Call it before
/// telling anybody that there is something to stop.
fn signalled() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match signals {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            // Without signal handlers the default applies: the signal ends the process, and the promise carries it.
            _ => std::future::pending().await,
        }
    }
}

/// From now on SIGINT and SIGTERM do what they do to a program that does not listen: end it at once.
#[expect(unsafe_code, reason = "what a signal does can be set in no other way")]
fn stop_listening() {
    for each in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the default action is no handler that could run into anything. The handlers that it takes the place
        // of are never asked for again.
        if let Err(error) = unsafe { nix::sys::signal::signal(each, SigHandler::SigDfl) } {
            tracing::warn!("a second {each} will not end the service at once: {error}");
        }
    }
}
