//! The body of a request: read from the socket, inflated, handed out in small pieces.

pub mod abort;
pub mod guard;

pub use abort::UploadAbort;
pub use guard::RequestBodyGuard;

use crate::http::error::ApiError;
use crate::http::limits::timeouts::{BodyTimeouts, SlowClientDetector};
use crate::metrics;
use crate::wire::{ContentEncoding, Inflate};
use bytes::{Buf, Bytes};
use tokio::time::{Instant, timeout};

/// The maximum size of an inflated piece.
const PIECE: usize = 64 * 1024;

/// The body of a request that is being received.
///
/// Inflating runs on the HTTP worker: a piece is a fraction of a millisecond of work, less than parsing the lines in
/// it, and between two pieces the other requests of the worker have their turn.
pub struct Body {
    guard: RequestBodyGuard,
    slow_client: SlowClientDetector,
    encoding: ContentEncoding,
    inflate: Inflate,
    /// Received and not yet inflated.
    input: Bytes,
    /// The last piece of a body that is not inflated.
    plain: Bytes,
    /// The buffer for inflated pieces; empty for an uncompressed body.
    output: Box<[u8]>,
    /// The decoder may hold more: the last piece filled `output`, or damage follows it.
    more: bool,
}

impl Body {
    /// Reads the body that `guard` holds, with these timeouts for the client.
    ///
    /// # Errors
    /// 400 when the decoder cannot be made.
    pub fn new(
        encoding: ContentEncoding,
        guard: RequestBodyGuard,
        timeouts: BodyTimeouts,
    ) -> Result<Body, ApiError> {
        let inflate = Inflate::new(encoding).map_err(UploadAbort::from)?;
        let room = if encoding == ContentEncoding::Identity { 0 } else { PIECE };
        let output = vec![0; room].into_boxed_slice();
        let (slow_client, input, plain) = (SlowClientDetector::new(timeouts), Bytes::new(), Bytes::new());
        Ok(Body { guard, slow_client, encoding, inflate, input, plain, output, more: false })
    }

    /// The next piece: not empty, and at most 64 KiB when it was inflated. `None` at the end of a complete body. The
    /// future is cancel-safe; do not call it again after an error. While the client `is_owed` an answer it may be
    /// waiting for the service, and its timeouts are paused.
    ///
    /// # Errors
    /// The reason why the body is not complete.
    pub async fn next(&mut self, is_owed: impl Fn() -> bool) -> Result<Option<&[u8]>, UploadAbort> {
        loop {
            if self.input.is_empty() && !self.more {
                match self.receive(&is_owed).await? {
                    Some(received) => self.input = received,
                    None => return self.inflate.finish().map(|()| None).map_err(UploadAbort::from),
                }
            }
            if self.encoding == ContentEncoding::Identity {
                if self.input.is_empty() {
                    continue;
                }
                self.plain = std::mem::take(&mut self.input);
                return Ok(Some(&self.plain));
            }
            let mut input = &self.input[..];
            let written = self.inflate.step(&mut input, &mut self.output)?;
            let left = input.len();
            self.input.advance(self.input.len() - left);
            self.more = written == self.output.len() || self.inflate.is_damaged();
            tokio::task::yield_now().await;
            if written > 0 {
                return Ok(Some(&self.output[..written]));
            }
        }
    }

    /// Receives the next piece within the timeouts of the client.
    async fn receive(&mut self, is_owed: impl Fn() -> bool) -> Result<Option<Bytes>, UploadAbort> {
        loop {
            let (asked, owed) = (Instant::now(), is_owed());
            let received = timeout(self.slow_client.step(), self.guard.next()).await;
            if let Ok(Some(Ok(received))) = &received {
                metrics::body_bytes(self.encoding.name(), received.len());
                self.slow_client.received(received.len());
            }
            if !owed && !is_owed() {
                self.slow_client.waited(asked.elapsed())?;
            }
            match received {
                Ok(Some(Ok(received))) => return Ok(Some(received)),
                Ok(Some(Err(error))) => return Err(UploadAbort::Incomplete(error.to_string())),
                Ok(None) => return Ok(None),
                Err(_) => {}
            }
        }
    }
}
