//! Reads the SQLSTATE of errors from the byte stream of a connection, because diesel does not pass it on.
//!
//! diesel maps errors to a few kinds and calls the rest unknown: full disks, deadlocks and malformed texts alike. The
//! message is in the server's language. Whether to retry, bisect or stop depends on the SQLSTATE, so the stream looks
//! for error messages in what it reads. It changes no byte.

use super::error::SqlState;
use super::hosts::ServerSocket;
use crate::threads::lock;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first error that the server reported on a connection since the last [`Self::take`].
#[derive(Debug, Default)]
pub(super) struct LastError(Mutex<Option<SqlState>>);

impl LastError {
    pub fn take(&self) -> Option<SqlState> {
        lock(&self.0).take()
    }

    /// Keeps the first: later errors of the transaction only say that it was aborted.
    fn note(&self, state: SqlState) {
        lock(&self.0).get_or_insert(state);
    }
}

/// A connected socket that records the SQLSTATE of the errors it reads.
#[derive(Debug)]
pub(super) struct SniffedStream {
    socket: ServerSocket,
    messages: MessageParser,
    errors: Arc<LastError>,
}

impl SniffedStream {
    pub fn new(socket: ServerSocket, errors: Arc<LastError>) -> SniffedStream {
        SniffedStream { socket, messages: MessageParser::default(), errors }
    }
}

impl AsyncRead for SniffedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.socket {
            ServerSocket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            ServerSocket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        };
        this.messages.pass(&buf.filled()[before..], |state| this.errors.note(state));
        read
    }
}

impl AsyncWrite for SniffedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            ServerSocket::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            ServerSocket::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            ServerSocket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            ServerSocket::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            ServerSocket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            ServerSocket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// Parses the server's messages: a type byte, a length of four bytes that includes itself, a body.
#[derive(Debug, Default)]
struct MessageParser {
    header: Vec<u8>,
    /// Bytes of the current body that are still to be read.
    left: usize,
    /// The first bytes of an error message's body; the SQLSTATE is among its first three fields.
    error: Option<Vec<u8>>,
}

/// Enough for the severity (twice) and the SQLSTATE, which take about 40 bytes.
const ERROR_BYTES: usize = 256;

impl MessageParser {
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(SqlState)) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (part, rest) = bytes.split_at(bytes.len().min(5 - self.header.len()));
                self.header.extend_from_slice(part);
                bytes = rest;
                if let [kind, a, b, c, d] = *self.header.as_slice() {
                    self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                    self.error = (kind == b'E').then(Vec::new);
                    self.header.clear();
                }
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(self.left));
                self.left -= part.len();
                bytes = rest;
                if let Some(body) = &mut self.error {
                    body.extend_from_slice(&part[..part.len().min(ERROR_BYTES - body.len())]);
                    if self.left == 0 {
                        state_of(body).into_iter().for_each(&mut found);
                    }
                }
            }
        }
    }
}

/// The fields of an error message: a type byte and a zero-terminated text. `C` is the SQLSTATE.
fn state_of(body: &[u8]) -> Option<SqlState> {
    body.split(|byte| *byte == 0).find_map(|field| SqlState::new(field.strip_prefix(b"C")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    fn error(code: &str) -> Vec<u8> {
        let text = "x".repeat(1000);
        message(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes())
    }

    #[test]
    fn errors_are_found_however_the_bytes_are_cut() {
        // A row full of what looks like an error, an error, an empty message, another error.
        let row = message(b'D', &error("99999"));
        let stream = [row, error("22021"), message(b'Z', b""), error("25P02"), message(b'Z', b"I")].concat();
        for size in [1, 2, 3, 5, 7, 64, stream.len()] {
            let (mut messages, mut seen) = (MessageParser::default(), Vec::new());
            stream.chunks(size).for_each(|part| messages.pass(part, |state| seen.push(state.to_string())));
            assert_eq!(seen, ["22021", "25P02"], "in pieces of {size}");
        }
    }

    #[test]
    fn the_first_error_is_kept_until_it_is_taken() {
        let errors = LastError::default();
        for code in ["22021", "25P02"] {
            SqlState::new(code.as_bytes()).into_iter().for_each(|state| errors.note(state));
        }
        assert_eq!(errors.take().map(|state| state.to_string()).as_deref(), Some("22021"));
        assert_eq!(errors.take(), None);
    }
}
