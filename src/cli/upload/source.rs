//! Where the lines of an upload come from.

use super::answer::UploadFailure;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::io;

/// A source of chunks as NDJSON, one chunk a line.
///
/// The service numbers the lines it is sent, blank ones included, and its answers name these numbers. A source chooses
/// them: a blank line has no answer and moves the number on, so each chunk can lie on the line that its place has for
/// people: the line of a table, the element of an array, the row of a Parquet file.
pub trait UploadSource: Send + Sync {
    /// The name in messages.
    fn name(&self) -> &str;

    /// What the numbers of lines count for people: `line`, `row`, `element`.
    fn unit(&self) -> &'static str {
        "line"
    }

    /// Whether [`Self::open`] gives the same lines again. If not, what is cut off cannot be sent again.
    fn can_reopen(&self) -> bool;

    /// The end of [`UploadPiece::position`], if it is known.
    fn size(&self) -> Option<u64> {
        None
    }

    /// Whether the lines would be others now than at the first [`Self::open`].
    fn is_outdated(&self) -> bool {
        false
    }

    /// The lines from the first on. After an error nothing more is read.
    fn open(&self) -> PieceStream;
}

/// The pieces of a source, in order.
pub type PieceStream = BoxStream<'static, io::Result<UploadPiece>>;

/// Some lines of a source.
#[derive(Debug, Default, Clone)]
pub struct UploadPiece {
    /// Whole lines, each with its line break; only the last line of a source may lack it.
    pub lines: Bytes,
    /// Lines of this piece that are not sent. Each is blank in `lines`.
    pub refused: Vec<LocalRefusal>,
    /// How far the source was read for this piece, in the unit of [`UploadSource::size`].
    pub position: u64,
}

impl UploadPiece {
    /// Lines that are all sent.
    pub fn of_lines(lines: Bytes, position: u64) -> Self {
        UploadPiece { lines, refused: Vec::new(), position }
    }
}

/// A line that its source refuses, because no chunk can be made of it.
#[derive(Debug, Clone)]
pub struct LocalRefusal {
    /// The number of the line, from 1.
    pub line: u64,
    /// Why it is refused; not retryable.
    pub failure: UploadFailure,
    /// What was read, as far as it can be shown.
    pub content: Bytes,
}
