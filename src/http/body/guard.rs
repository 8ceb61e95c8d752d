//! Holds the body of a request as long as its answer lives.
//!
//! When the payload of a request is dropped, the framework reads the rest of the body and discards it, however long
//! that takes. So a handler that answers before the end of the body holds the payload until the answer is sent. The
//! connection then stays open for a moment, so that a client that still sends receives the answer instead of a reset,
//! and is closed.

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

/// The bytes that the framework reads ahead by itself, less the smallest head.
const READ_AHEAD: usize = 16 * 1024;

/// The body of a request that is being received; clones share it.
#[derive(Clone)]
pub struct RequestBodyGuard(Rc<RefCell<Payload>>);

impl RequestBodyGuard {
    /// Holds the payload of a request.
    pub fn new(payload: Payload) -> Self {
        RequestBodyGuard(Rc::new(RefCell::new(payload)))
    }

    /// The next piece of the body; `None` at its end.
    pub async fn next(&self) -> Option<Result<Bytes, PayloadError>> {
        poll_fn(|context| self.0.borrow_mut().poll_next_unpin(context)).await
    }

    /// Discards a small body that arrived together with its head, so that the connection can be reused.
    pub async fn discard_if_small(&self, declared: Option<usize>) {
        if declared.is_some_and(|bytes| bytes <= READ_AHEAD) {
            // The framework passes on what it has read when the task yields.
            tokio::task::yield_now().await;
            while let Some(Some(Ok(_))) = self.next().now_or_never() {}
        }
    }

    /// Puts the guard into the extensions of an answer, for [`RequestBodyGuard::hold`].
    pub fn attach_to(self, mut response: HttpResponse) -> HttpResponse {
        response.extensions_mut().insert(self);
        response
    }

    /// Moves the guard from the extensions of an answer into its body.
    pub fn hold(mut response: ServiceResponse) -> ServiceResponse {
        let guard = response.response_mut().extensions_mut().remove::<RequestBodyGuard>();
        match guard {
            Some(guard) => response.map_body(|_, body| guard.holding(body)),
            None => response,
        }
    }

    /// The body of an answer, which holds this guard until it is sent.
    pub fn holding(self, body: BoxBody) -> BoxBody {
        BoxBody::new(Holding { body, _guard: self })
    }
}

/// The body of an answer, with the guard of its request.
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
