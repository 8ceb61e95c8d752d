//! What happens around every handler: where the request comes from is checked, its body is held until the answer is
//! sent, it is counted and timed, and the answer carries the client's own request id if it is valid, else a new one.

use crate::error_code::ErrorCode;
use crate::http::body::RequestBodyGuard;
use crate::http::connection::ClientConnection;
use crate::http::error::ApiError;
use crate::http::origin::{self, AllowedHosts};
use crate::http::request::content_length;
use crate::http::routes;
use crate::metrics;
use actix_http::{ConnectionType, Request};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Version;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};
use std::rc::Rc;
use std::time::Instant;
use tracing::Instrument;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

fn usable(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The middleware around every handler.
pub async fn around_handler(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let started = Instant::now();
    let id = id_of(request.headers());
    let route = routes::label(request.path());
    let method = method_of(request.method().as_str());
    let span = tracing::info_span!("request", request_id = %id, route);

    let connection = request.conn_data::<Rc<ClientConnection>>().cloned();
    let length = content_length(request.headers());
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let before_chunks = request.version() < Version::HTTP_11;
    let has_body = chunked || length.is_some_and(|length| length > 0);
    let active = connection.as_ref().map(|connection| connection.begin_request(has_body));
    let guard = RequestBodyGuard::new(request.take_payload());
    request.extensions_mut().insert(guard.clone());

    let mut response = match checked(&request, connection.as_deref()) {
        Ok(()) => next.call(request).instrument(span).await?.map_into_boxed_body(),
        Err(error) => request.into_response(error.error_response()),
    };
    if chunked {
        // The framework can take the end of a chunked body for the start of another request. Nothing after it counts.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        connection.iter().for_each(|connection| connection.end_after_request());
    }
    if before_chunks && response.response().body().size() == BodySize::Stream {
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        response.response_mut().head_mut().no_chunking(true);
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    metrics::http_request(route, method, response.status().as_u16(), started.elapsed());
    if response.status().is_client_error() || response.status().is_server_error() {
        response = response.map_body(|head, body| {
            let json = head.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
            if json { with_id(body, &id) } else { body }
        });
        guard.discard_if_small(length).await;
    }
    Ok(response.map_body(|_, body| guard.holding(body, active)))
}

/// Checks what holds for all routes.
fn checked(request: &ServiceRequest, connection: Option<&ClientConnection>) -> Result<(), ApiError> {
    if connection.is_some_and(ClientConnection::is_ending) {
        let message = "a request with a chunked body is the last one of its connection; use a new connection";
        return Err(ApiError::new(ErrorCode::ConnectionEnding, message));
    }
    request.app_data::<AllowedHosts>().map_or(Ok(()), |allowed| origin::check(request.head(), allowed))
}

/// The answer to a request that is refused before [`around_handler`]. Holds the body that is not read.
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
    response.map_body(|_, body| guard.holding(with_id(body, &id), ()))
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
