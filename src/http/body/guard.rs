//! The body of a request, guard as long as its answer.
//!
//! The framework takes a body that nobody holds any more for one to be read to its end and forgotten, however long
//! that takes. So whoever answers without having read everything keeps the rest until the answer is out: the
//! connection then lingers for a moment, so that a client that still sends sees the answer and not a reset, and is
//! closed.

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceResponse};
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Bytes that the framework reads ahead without being asked, less the smallest head.
const READ_AHEAD: usize = 16 * 1024;

/// A body on its way in; copies share it.
#[derive(Clone)]
pub struct RequestBodyGuard(Rc<RefCell<Payload>>);

impl RequestBodyGuard {
    /// Of this request.
    pub fn new(payload: Payload) -> Self {
        RequestBodyGuard(Rc::new(RefCell::new(payload)))
    }

    /// What was received next. `None` at the end.
    pub async fn next(&self) -> Option<Result<Bytes, PayloadError>> {
        poll_fn(|context| self.0.borrow_mut().poll_next_unpin(context)).await
    }

    /// Takes a small body that has come together with its head, so that the connection can be used again.
    pub async fn discard_if_small(&self, declared: Option<usize>) {
        if declared.is_some_and(|bytes| bytes <= READ_AHEAD) {
            // The framework hands over what it has read once we wait.
            tokio::task::yield_now().await;
            while let Some(Some(Ok(_))) = self.next().now_or_never() {}
        }
    }

    /// Has the answer carry it, up to [`RequestBodyGuard::hold`].
    pub fn attach_to(self, mut response: HttpResponse) -> HttpResponse {
        response.extensions_mut().insert(self);
        response
    }

    /// Ties the body that an answer carries to the answer's own.
    pub fn hold(mut response: ServiceResponse) -> ServiceResponse {
        let guard = response.response_mut().extensions_mut().remove::<RequestBodyGuard>();
        match guard {
            Some(guard) => response.map_body(|_, body| guard.holding(body)),
            None => response,
        }
    }

    /// An answer's body that keeps this one.
    pub fn holding(self, body: BoxBody) -> BoxBody {
        BoxBody::new(Holding { body, _guard: self })
    }
}

/// The body of an answer, and that of its request.
struct Holding {
    body: BoxBody,
    _guard: RequestBodyGuard,
}

impl MessageBody for Holding {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
