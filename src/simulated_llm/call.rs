//! One call for an answer: it waits for a slot, takes its time, and is answered in the format of its API, or fails.

use super::ask::{Ask, Format};
use super::completion::{CallTimes, Completion, complete};
use super::fault::Fault;
use super::options::ThinkingModel;
use super::state::SimulatedState;
use super::{ollama, openai};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The size of the body of [`huge`], in bytes: larger than any client should accept.
const HUGE: usize = 50_000_000;
/// The time between two bytes of a dribbling body.
const DRIBBLE: Duration = Duration::from_millis(100);
/// The time between the first half of a body and the reset: for the kernel to send what it has.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// The API of a call, which decides the format of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `/api/generate` of Ollama.
    Ollama,
    /// `/v1/chat/completions`.
    OpenAi,
}

/// A duplicate of the socket of a connection, used to reset it.
pub struct ClientSocket(pub OwnedFd);

impl Wire {
    /// An error response.
    pub fn error(self, status: u16, message: &str) -> HttpResponse {
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(code);
        if status == 429 {
            response.insert_header(("Retry-After", "1"));
        }
        response.json(match self {
            Wire::Ollama => ollama::error(message),
            Wire::OpenAi => openai::error(status, message),
        })
    }

    /// The response to a model that the server does not have.
    pub fn no_model(self, model: &str) -> HttpResponse {
        match self {
            Wire::Ollama => self.error(404, &format!("model '{model}' not found")),
            Wire::OpenAi => self.error(404, &format!("The model `{model}` does not exist.")),
        }
    }

    fn whole(self, ask: &Ask, answer: &Completion, times: &CallTimes, state: &SimulatedState) -> Value {
        match self {
            Wire::Ollama => ollama::whole(ask, answer, times),
            Wire::OpenAi => openai::whole(ask, answer, state.api()),
        }
    }
}

/// Answers a call that came at `came`.
pub async fn answer(
    wire: Wire,
    ask: Ask,
    request: &HttpRequest,
    state: &SimulatedState,
    came: Instant,
) -> HttpResponse {
    if !state.has(&ask.model) {
        return wire.no_model(&ask.model);
    }
    if wire == Wire::Ollama && ask.prompt.is_empty() {
        state.loaded();
        return HttpResponse::Ok().json(ollama::load(&ask.model));
    }
    if ask.format == Format::Invalid {
        return wire.error(500, "invalid format: expected \"json\" or a JSON schema");
    }
    if wire == Wire::Ollama && ask.think == Some(true) && state.thinking() == ThinkingModel::None {
        return wire.error(400, &format!("\"{}\" does not support thinking", ask.model));
    }
    if wire == Wire::OpenAi {
        state.chatted();
    }
    let fault = state.received(&ask.prompt);
    if let Some(fault) = fault.filter(|fault| !fault.takes_a_slot()) {
        return fail(wire, fault, request, &ask).await;
    }
    let held = state.slot().await;
    let started = Instant::now();
    actix_web::rt::time::sleep(state.latency()).await;
    let times = CallTimes { waited: started - came, held: started.elapsed() };
    let answer = complete(&ask, fault, state.thinking());
    if fault.is_none() {
        state.answered();
    }
    let whole = || wire.whole(&ask, &answer, &times, state);
    let response = match (fault, ask.stream) {
        (Some(Fault::Huge), _) => json_body().streaming(parts(huge(wire, &ask.model))),
        (Some(Fault::Dribble), _) => json_body().streaming(dribble(whole().to_string())),
        (Some(Fault::ResetMidBody), _) => reset_mid_body(request, &whole().to_string()),
        (_, false) => json_body().json(whole()),
        (_, true) => match wire {
            Wire::Ollama => HttpResponse::Ok()
                .content_type("application/x-ndjson")
                .streaming(parts(ollama::lines(&ask, &answer, &times).into_iter())),
            Wire::OpenAi => HttpResponse::Ok()
                .content_type("text/event-stream")
                .streaming(parts(openai::events(&ask, &answer, state.api()).into_iter())),
        },
    };
    drop(held);
    response
}

/// The response to a fault that occurs before the model.
async fn fail(wire: Wire, fault: Fault, request: &HttpRequest, ask: &Ask) -> HttpResponse {
    match fault {
        Fault::Hang => std::future::pending().await,
        Fault::Busy503 => wire.error(503, "server busy, please try again.  maximum pending requests exceeded"),
        Fault::Limited429 => wire.error(429, "Rate limit reached: too many requests"),
        Fault::Html => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .body("<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Your network asks you to sign in.</body></html>\n"),
        Fault::Garbage => json_body().body("\u{1}\u{7f}}{]\"not json, whatever the header says"),
        Fault::Redirect => {
            HttpResponse::Found().insert_header(("Location", "http://elsewhere.invalid/api/generate")).finish()
        }
        Fault::ModelGone => wire.no_model(&ask.model),
        Fault::Reset => {
            reset_when_closed(request);
            // The body fails before its first byte, so actix closes the connection without sending the headers.
            HttpResponse::Ok().streaming(stream::iter([Err::<Bytes, _>(injected())]))
        }
        // Faults of the model are not handled here.
        _ => wire.error(500, "model runner has unexpectedly stopped"),
    }
}

/// The first half of a body, then a reset.
fn reset_mid_body(request: &HttpRequest, body: &str) -> HttpResponse {
    reset_when_closed(request);
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let broken = stream::once(async {
        actix_web::rt::time::sleep(BEFORE_RESET).await;
        Err(injected())
    });
    json_body().streaming(stream::iter([Ok(half)]).chain(Box::pin(broken)))
}

/// A body one byte at a time.
fn dribble(body: String) -> impl stream::Stream<Item = Result<Bytes, io::Error>> + 'static {
    let bytes = stream::iter(body.into_bytes()).then(|byte| async move {
        actix_web::rt::time::sleep(DRIBBLE).await;
        Ok(Bytes::copy_from_slice(&[byte]))
    });
    Box::pin(bytes)
}

/// A response of [`HUGE`] bytes, in parts that share memory.
fn huge(wire: Wire, model: &str) -> impl Iterator<Item = Bytes> + use<> {
    let model = json!(model);
    let (before, after) = match wire {
        Wire::Ollama => {
            (format!("{{\"model\":{model},\"done\":true,\"done_reason\":\"stop\",\"response\":\""), "\"}")
        }
        Wire::OpenAi => {
            let before = "\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"content\":\"";
            (format!("{{\"model\":{model},{before}"), "\"}}]}")
        }
    };
    let part = Bytes::from(vec![b'x'; 64 * 1024]);
    let filling = HUGE.saturating_sub(before.len() + after.len());
    let rest = part.slice(..filling % part.len());
    let parts = std::iter::repeat_n(part.clone(), filling / part.len());
    std::iter::once(Bytes::from(before)).chain(parts).chain([rest, Bytes::from_static(after.as_bytes())])
}

fn injected() -> io::Error {
    io::Error::other("injected reset")
}

/// Makes closing the connection send a reset (`SO_LINGER` of 0 seconds).
fn reset_when_closed(request: &HttpRequest) {
    let Some(socket) = request.conn_data::<ClientSocket>() else { return };
    let lingering = || -> io::Result<()> {
        let socket = std::net::TcpStream::from(socket.0.try_clone()?);
        actix_web::rt::net::TcpStream::from_std(socket)?.set_zero_linger()
    };
    // If this fails, the connection is still closed.
    drop(lingering());
}

fn json_body() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type("application/json; charset=utf-8");
    response
}

fn parts(
    parts: impl Iterator<Item = Bytes> + 'static,
) -> impl stream::Stream<Item = Result<Bytes, io::Error>> + 'static {
    stream::iter(parts.map(Ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_huge_body_is_json_and_has_its_size() {
        for wire in [Wire::Ollama, Wire::OpenAi] {
            let body: Vec<u8> = huge(wire, "m\"").fold(Vec::new(), |mut body, part| {
                body.extend_from_slice(&part);
                body
            });
            assert_eq!(body.len(), HUGE);
            let read: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read["model"], json!("m\""));
            let done = if wire == Wire::Ollama {
                &read["done_reason"]
            } else {
                &read["choices"][0]["finish_reason"]
            };
            assert_eq!(done, "stop");
        }
    }
}
