//! A connection: the clock of its heads, and whether it takes another request.
//!
//! The framework limits the time for the first head of a connection. Later heads have the limit of an idle connection
//! only until their first byte, and none after it. So the socket itself keeps the time while no request is under way.

use crate::http::settings::Settings;
use actix_web::rt::net::TcpStream;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the socket and the requests of a connection know of each other.
pub struct ClientConnection {
    requests: Cell<usize>,
    /// The end of the last request, or the start of the connection.
    idle_since: Cell<Instant>,
    /// The first byte of a head that is not complete.
    head_since: Cell<Option<Instant>>,
    /// The last bytes that were received.
    tail: Cell<[u8; 4]>,
    last_request: Cell<bool>,
}

/// A request that is under way, from its head to the last byte of its answer.
pub struct ActiveRequest {
    connection: Rc<ClientConnection>,
    has_body: bool,
}

impl ClientConnection {
    /// A connection without requests.
    pub fn new() -> Rc<ClientConnection> {
        Rc::new(ClientConnection {
            requests: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            tail: Cell::default(),
            last_request: Cell::new(false),
        })
    }

    /// Begins a request, whose head is complete.
    pub fn begin_request(self: &Rc<Self>, has_body: bool) -> ActiveRequest {
        self.requests.set(self.requests.get() + 1);
        self.head_since.set(None);
        ActiveRequest { connection: self.clone(), has_body }
    }

    /// Takes note of bytes that were received.
    fn receive(&self, bytes: &[u8]) {
        if self.requests.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
        let mut tail = self.tail.get();
        for byte in &bytes[bytes.len().saturating_sub(tail.len())..] {
            tail.rotate_left(1);
            tail[3] = *byte;
        }
        self.tail.set(tail);
    }

    /// Takes no request after the current one.
    pub fn end_after_request(&self) {
        self.last_request.set(true);
    }

    /// Whether [`Self::end_after_request`] was called.
    pub fn is_ending(&self) -> bool {
        self.last_request.get()
    }

    /// When the client is too late with its next head. `None` while a request is under way.
    fn deadline(&self, timeouts: HeadTimeouts) -> Option<Instant> {
        if self.requests.get() > 0 {
            return None;
        }
        // Bytes of the next head may have come with the body of the last request, so this limit holds in any case.
        let idle = self.idle_since.get() + timeouts.keep_alive + timeouts.head;
        let head = self.head_since.get().map(|since| since + timeouts.head);
        Some(head.map_or(idle, |head| head.min(idle)))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.requests.set(connection.requests.get() - 1);
        connection.idle_since.set(Instant::now());
        // Without a body nothing follows the empty line but another head.
        if !self.has_body && connection.tail.get() != *b"\r\n\r\n" {
            connection.head_since.set(Some(Instant::now()));
        }
    }
}

/// The limits between two requests.
#[derive(Debug, Clone, Copy)]
struct HeadTimeouts {
    head: Duration,
    keep_alive: Duration,
}

/// The socket of a connection. It reads the end of the stream when the client is too late with a head.
pub struct Socket {
    stream: TcpStream,
    connection: Rc<ClientConnection>,
    timeouts: HeadTimeouts,
    clock: Pin<Box<Sleep>>,
}

impl Socket {
    /// Keeps the time of `stream`.
    pub fn new(stream: TcpStream, settings: &Settings) -> Socket {
        let timeouts = HeadTimeouts { head: settings.head, keep_alive: settings.keep_alive };
        let clock = Box::pin(sleep_until(Instant::now() + timeouts.head));
        Socket { stream, connection: ClientConnection::new(), timeouts, clock }
    }

    /// What the requests of this socket share.
    pub fn connection(&self) -> &Rc<ClientConnection> {
        &self.connection
    }

    /// The stream itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn is_too_late(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = self.connection.deadline(self.timeouts) else { return false };
        if self.clock.deadline() != deadline {
            self.clock.as_mut().reset(deadline);
        }
        self.clock.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.connection.receive(&buffer.filled()[before..]);
        }
        if self.is_too_late(context) {
            buffer.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
