//! Reads from the byte stream of a connection what diesel does not pass on, and ends a connection whose server is silent.
//!
//! diesel maps errors to a few kinds and calls the rest unknown: full disks, deadlocks and malformed texts alike. The
//! message is in the server's language. Whether to retry, bisect or stop depends on the SQLSTATE, so the stream looks
//! for error messages in what it reads. Nor does diesel say when the server answers a COMMIT with ROLLBACK, because a
//! statement before it had failed. The stream changes no byte.
//!
//! A network that falls silent ends no connection, and time-outs of the server say nothing to a client that cannot hear
//! them. So while an answer is owed, the stream fails when nothing comes and nothing can be sent for as long as the
//! statement may take.

use super::error::SqlState;
use super::hosts::ServerSocket;
use crate::threads::lock;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the stream tells of a session, and what it is told.
#[derive(Debug, Default)]
pub(super) struct SessionNotes(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    /// The first error since the notes were cleared: later errors of the transaction only say that it was aborted.
    error: Option<SqlState>,
    /// A COMMIT or ROLLBACK was answered with ROLLBACK since the notes were cleared.
    rolled_back: bool,
    /// The answer that is owed: since when, and how long the server may be silent.
    owed: Option<(Instant, Duration)>,
    /// The server was silent for too long, and the connection has ended.
    silent_for: Option<Duration>,
}

impl SessionNotes {
    /// Clears the notes: an answer is owed from now on.
    pub fn expect_answer(&self, within: Duration) {
        let mut notes = lock(&self.0);
        (notes.error, notes.rolled_back) = (None, false);
        notes.owed = Some((Instant::now(), within));
    }

    /// The answer is here, or its call is over.
    pub fn answered(&self) {
        lock(&self.0).owed = None;
    }

    /// The first error since the notes were cleared.
    pub fn take_error(&self) -> Option<SqlState> {
        lock(&self.0).error.take()
    }

    /// Whether a transaction was rolled back since the notes were cleared.
    pub fn rolled_back(&self) -> bool {
        lock(&self.0).rolled_back
    }

    /// For how long the server was silent, if that has ended the connection.
    pub fn silent_for(&self) -> Option<Duration> {
        lock(&self.0).silent_for
    }

    fn note(&self, news: News) {
        let mut notes = lock(&self.0);
        match news {
            News::Error(state) => {
                notes.error.get_or_insert(state);
            }
            News::RolledBack => notes.rolled_back = true,
        }
    }

    /// When the silence is too long, if the last byte went over the wire at `last`.
    fn deadline(&self, last: Instant) -> Option<Instant> {
        lock(&self.0).owed.map(|(since, within)| since.max(last) + within)
    }

    fn give_up(&self) -> io::Error {
        let mut notes = lock(&self.0);
        let within = notes.owed.map_or(Duration::ZERO, |(_, within)| within);
        notes.silent_for = Some(within);
        let seconds = within.as_secs();
        tracing::warn!(seconds, "the database does not answer; its connection is given up");
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {seconds} s"))
    }
}

/// A connected socket that looks at what it reads.
#[derive(Debug)]
pub(super) struct SniffedStream {
    socket: ServerSocket,
    messages: MessageParser,
    notes: Arc<SessionNotes>,
    /// When the last byte was read or written.
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl SniffedStream {
    pub fn new(socket: ServerSocket, notes: Arc<SessionNotes>) -> SniffedStream {
        let messages = MessageParser::default();
        SniffedStream { socket, messages, notes, last: Instant::now(), timer: None }
    }

    /// Whether an answer is owed and the silence is too long; else the task is woken when it will be.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.notes.deadline(self.last) else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
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
        let bytes = &buf.filled()[before..];
        if read.is_pending() && this.is_silent(cx) {
            return Poll::Ready(Err(this.notes.give_up()));
        }
        if !bytes.is_empty() {
            this.last = Instant::now();
            this.messages.pass(bytes, |news| this.notes.note(news));
        }
        read
    }
}

impl AsyncWrite for SniffedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let buf = all_but_tail(buf);
        let written = match &mut this.socket {
            ServerSocket::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            ServerSocket::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        };
        if written.is_ready() {
            this.last = Instant::now();
        }
        written
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

/// The Execute and the Sync at the end of a statement, 15 bytes, are written together: the server begins with the one and
/// commits with the other, and a client that stopped in between would hold locks.
const TAIL: usize = 64;
/// Writes as small as these are never cut by the system, whose buffers are larger. Nor may they be cut here: PgBouncer
/// before 1.23 refuses a first packet that arrives in parts.
const UNCUT: usize = 4096;

/// What is written next.
fn all_but_tail(bytes: &[u8]) -> &[u8] {
    if bytes.len() > UNCUT { &bytes[..bytes.len() - TAIL] } else { bytes }
}

/// What a message of the server says that is of interest here.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// An error, by its SQLSTATE.
    Error(SqlState),
    /// The end of a transaction that left nothing behind.
    RolledBack,
}

/// Parses the server's messages: a type byte, a length of four bytes that includes itself, a body.
#[derive(Debug, Default)]
struct MessageParser {
    header: Vec<u8>,
    /// Bytes of the current body that are still to be read.
    left: usize,
    /// The type and the first bytes of the body of an error or of the end of a command. The SQLSTATE is among the first
    /// three fields of an error.
    kept: Option<(u8, Vec<u8>)>,
}

/// Enough for the severity (twice) and the SQLSTATE, which take about 40 bytes.
const KEPT_BYTES: usize = 256;

impl MessageParser {
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(News)) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (part, rest) = bytes.split_at(bytes.len().min(5 - self.header.len()));
                self.header.extend_from_slice(part);
                bytes = rest;
                if let [kind, a, b, c, d] = *self.header.as_slice() {
                    self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                    self.kept = matches!(kind, b'E' | b'C').then(|| (kind, Vec::new()));
                    self.header.clear();
                }
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(self.left));
                self.left -= part.len();
                bytes = rest;
                if let Some((kind, body)) = &mut self.kept {
                    body.extend_from_slice(&part[..part.len().min(KEPT_BYTES - body.len())]);
                    if self.left == 0 {
                        news_of(*kind, body).into_iter().for_each(&mut found);
                    }
                }
            }
        }
    }
}

/// The fields of an error message: a type byte and a zero-terminated text. `C` is the SQLSTATE. The end of a command is
/// its name.
fn news_of(kind: u8, body: &[u8]) -> Option<News> {
    let mut fields = body.split(|byte| *byte == 0);
    match kind {
        b'E' => fields.find_map(|field| SqlState::new(field.strip_prefix(b"C")?)).map(News::Error),
        _ => (fields.next() == Some(b"ROLLBACK")).then_some(News::RolledBack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    fn state(code: &str) -> SqlState {
        SqlState::new(code.as_bytes()).unwrap()
    }

    fn error(code: &str) -> Vec<u8> {
        let text = "x".repeat(1000);
        message(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes())
    }

    #[test]
    fn errors_are_found_however_the_bytes_are_cut() {
        // A row full of what looks like an error, an error, an empty message, another error.
        let row = message(b'D', &error("99999"));
        let ends = [message(b'C', b"COMMIT\0"), message(b'C', b"ROLLBACK\0"), message(b'C', b"INSERT 0 1\0")];
        let stream = [row, error("22021"), message(b'Z', b""), error("25P02"), message(b'Z', b"I")];
        let stream = [stream.concat(), ends.concat()].concat();
        for size in [1, 2, 3, 5, 7, 64, stream.len()] {
            let (mut messages, mut seen) = (MessageParser::default(), Vec::new());
            stream.chunks(size).for_each(|part| messages.pass(part, |news| seen.push(news)));
            let expected = [News::Error(state("22021")), News::Error(state("25P02")), News::RolledBack];
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn however_a_write_is_cut_the_tail_goes_in_one_piece() {
        for sent_at_once in [1, 7, 1000] {
            let (mut left, mut last) = (9000, 0);
            while left > 0 {
                let next = all_but_tail(&vec![0; left]).len();
                // A socket takes a part of a large piece.
                last = if next > UNCUT { next.min(sent_at_once) } else { next };
                left -= last;
            }
            assert!(last >= TAIL, "{sent_at_once} bytes at a time: {last}");
        }
    }

    #[test]
    fn small_writes_go_in_one_piece() {
        for length in [1, TAIL, TAIL + 1, UNCUT] {
            assert_eq!(all_but_tail(&vec![0; length]).len(), length);
        }
    }

    #[test]
    fn the_first_error_is_kept_until_the_next_answer_is_expected() {
        let notes = SessionNotes::default();
        for news in [News::Error(state("22021")), News::RolledBack, News::Error(state("25P02"))] {
            notes.note(news);
        }
        assert!(notes.rolled_back());
        assert_eq!((notes.take_error(), notes.take_error()), (Some(state("22021")), None));
        notes.note(News::Error(state("25P02")));
        notes.expect_answer(Duration::from_secs(1));
        assert_eq!((notes.take_error(), notes.rolled_back()), (None, false));
    }

    #[test]
    fn silence_counts_from_the_last_byte_while_an_answer_is_owed() {
        let notes = SessionNotes::default();
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        let later = Instant::now() + hour;
        assert_eq!(notes.deadline(later), None);
        notes.expect_answer(30 * second);
        assert_eq!(notes.deadline(later), Some(later + 30 * second));
        let before = Instant::now() + 30 * second;
        assert!(notes.deadline(later - 2 * hour).is_some_and(|deadline| deadline <= before));
        notes.answered();
        assert_eq!(notes.deadline(later), None);
    }
}
