//! Request ids: every answer carries the client's own id if it is valid, else a new one. The middleware also counts
//! and times the requests.

use crate::http::body::RequestBodyGuard;
use crate::http::error::ApiError;
use crate::http::routes;
use crate::metrics;
use actix_http::Request;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};
use std::time::Instant;
use tracing::Instrument;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

fn usable(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The middleware: assigns the id, counts and times the request, and adds the id to error answers.
pub async fn stamp(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let started = Instant::now();
    let id = id_of(request.headers());
    let route = routes::label(request.path());
    let method = method_of(request.method().as_str());
    let span = tracing::info_span!("request", request_id = %id, route);

    let mut response = next.call(request).instrument(span).await?.map_into_boxed_body();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    metrics::http_request(route, method, response.status().as_u16(), started.elapsed());
    if response.status().is_client_error() || response.status().is_server_error() {
        response = response.map_body(|head, body| {
            let json = head.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
            if json { with_id(body, &id) } else { body }
        });
    }
    Ok(RequestBodyGuard::hold(response))
}

/// The answer to a request that is refused before [`stamp`]. Holds the body that is not read.
pub fn refuse(request: &mut Request, error: &ApiError) -> HttpResponse {
    let started = Instant::now();
    let id = id_of(request.headers());
    let mut response = error.error_response();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    let (route, method) = (routes::label(request.path()), method_of(request.method().as_str()));
    metrics::http_request(route, method, response.status().as_u16(), started.elapsed());
    let guard = RequestBodyGuard::new(request.take_payload());
    response.map_body(|_, body| guard.holding(with_id(body, &id)))
}

/// The client's own id if it is valid, else a new one.
fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(&HEADER).and_then(|id| id.to_str().ok()).filter(|id| usable(id));
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Adds `request_id` to a JSON object that is already complete in memory.
fn with_id(body: BoxBody, id: &str) -> BoxBody {
    match body.try_into_bytes() {
        Ok(bytes) => match bytes.strip_suffix(b"}") {
            Some(object) => {
                let mut object = object.to_vec();
                // The id is checked or our own: it needs no escaping.
                object.extend_from_slice(format!(",\"request_id\":\"{id}\"}}").as_bytes());
                BoxBody::new(object)
            }
            None => BoxBody::new(bytes),
        },
        Err(body) => body,
    }
}

/// Methods are a metric label: a closed set.
fn method_of(method: &str) -> &'static str {
    ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}
