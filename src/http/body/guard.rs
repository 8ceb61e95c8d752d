//! Holds the body of a request as long as its answer lives.
//!
//! When the payload of a request is dropped, the framework reads the rest of the body and discards it, however long
//! that takes. So the middleware holds the payload of every request until its answer is sent. When the body was not read
//! to its end, the connection then stays open for a moment, so that a client that still sends receives the answer instead
//! of a reset, and is closed.

use crate::http::error::{ApiError, no_answer};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::cell::RefCell;
use std::future::{Ready, poll_fn, ready};
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

    /// The body of an answer, which holds this guard and `more` until it is sent.
    pub fn holding<T: 'static>(self, body: BoxBody, more: T) -> BoxBody {
        BoxBody::new(Holding { body, _held: (self, more) })
    }
}

/// The guard of the request that a handler answers.
impl FromRequest for RequestBodyGuard {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<RequestBodyGuard>().cloned().ok_or_else(no_answer))
    }
}

/// The body of an answer, with the guard of its request.
struct Holding<T> {
    body: BoxBody,
    _held: T,
}

// Nothing is pinned but the body, which is `Unpin`.
impl<T> Unpin for Holding<T> {}

impl<T> MessageBody for Holding<T> {
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
