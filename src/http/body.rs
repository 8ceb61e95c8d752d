//! The body of a request: read from the socket, inflated, handed out in small pieces.

use super::cut::Cut;
use super::error::ApiError;
use super::inflate::{Encoding, Inflate};
use crate::metrics;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;

/// Inflated bytes that are there at a time.
const PIECE: usize = 64 * 1024;

/// A body on its way in.
///
/// Inflating runs on the HTTP worker: a piece is a fraction of a millisecond of work, less than parsing the lines in
/// it, and between two pieces the other requests of the worker have their turn.
pub struct Body {
    payload: web::Payload,
    encoding: Encoding,
    inflate: Inflate,
    /// As received, not yet inflated.
    input: Bytes,
    /// The last piece of a body that is not inflated.
    plain: Bytes,
    /// Where pieces are inflated to; empty when nothing is.
    output: Box<[u8]>,
    /// The last piece filled `output`, so the decoder may hold more.
    more: bool,
}

impl Body {
    /// The body of this request.
    ///
    /// # Errors
    /// 415 for an encoding that is not ours.
    pub fn new(request: &HttpRequest, payload: web::Payload) -> Result<Body, ApiError> {
        let encoding = encoding_of(request)?;
        let inflate = Inflate::new(encoding).map_err(Cut::from)?;
        let room = if encoding == Encoding::Identity { 0 } else { PIECE };
        let output = vec![0; room].into_boxed_slice();
        Ok(Body { payload, encoding, inflate, input: Bytes::new(), plain: Bytes::new(), output, more: false })
    }

    /// The next piece: not empty, 64 KiB at most when it was inflated. `None` at the end of a whole body. May be
    /// dropped while it waits; not to be called again after an error.
    ///
    /// # Errors
    /// The end of a body that is not whole.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, Cut> {
        loop {
            if self.input.is_empty() && !self.more {
                match self.payload.next().await {
                    Some(Ok(received)) => {
                        metrics::body_bytes(self.encoding.name(), received.len());
                        self.input = received;
                    }
                    Some(Err(error)) => return Err(Cut::Incomplete(error.to_string())),
                    None => return self.inflate.finish().map(|()| None).map_err(Cut::from),
                }
            }
            if self.encoding == Encoding::Identity {
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
            self.more = written == self.output.len();
            tokio::task::yield_now().await;
            if written > 0 {
                return Ok(Some(&self.output[..written]));
            }
        }
    }
}

/// What the request says about its body.
fn encoding_of(request: &HttpRequest) -> Result<Encoding, ApiError> {
    let mut named = String::new();
    for value in request.headers().get_all(header::CONTENT_ENCODING) {
        named.push_str(value.to_str().unwrap_or("unreadable"));
        named.push(',');
    }
    Encoding::from_header(&named).ok_or_else(|| {
        let named = named.trim_end_matches(',');
        let message =
            format!("Content-Encoding {named} is not supported; send the body as gzip, as zstd, or as it is");
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
    })
}
