//! The rows of the old table as the source of an upload: a line a row, in the order of their time.

use super::old_row::{OldCodes, RowOptions, chunk_of};
use crate::cli::upload::{LocalRefusal, PieceStream, UploadFailure, UploadPiece, UploadSource};
use crate::store::{OldTables, OldTablesError};
use crate::threads::lock;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Map, Value};
use std::io;
use std::sync::{Arc, Mutex};

/// A piece is sent when it has so many bytes, or so many rows.
const PIECE_BYTES: usize = 32 * 1024;
const PIECE_ROWS: usize = 256;

/// What the rows have that has to be said. A row that is read again, for another attempt, counts once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RowTally {
    /// The rows that were read.
    pub rows: u64,
    out_of_range: u64,
    no_answer: u64,
}

impl RowTally {
    /// One sentence for each thing to say.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.out_of_range > 0 {
            sentences.push(format!(
                "{} rows have a code outside its axis (domain 0 to 15, task 0 to 31, modifier 0 to 63): the service \
                 gives them their codes, and the old ones are in their metadata",
                self.out_of_range
            ));
        }
        if self.no_answer > 0 {
            sentences.push(format!(
                "{} rows have the codes 0.0.0, which the old service wrote when it had no answer: the service gives \
                 them their codes (--zero-codes takes them as they are)",
                self.no_answer
            ));
        }
        sentences
    }
}

/// See the module.
pub struct RowSource {
    tables: Arc<OldTables>,
    options: Arc<RowOptions>,
    tally: Arc<Mutex<RowTally>>,
}

impl RowSource {
    /// The rows of these tables.
    pub fn new(tables: Arc<OldTables>, options: RowOptions) -> Self {
        RowSource { tables, options: Arc::new(options), tally: Arc::default() }
    }

    /// What was read so far.
    pub fn tally(&self) -> RowTally {
        *lock(&self.tally)
    }
}

impl UploadSource for RowSource {
    fn name(&self) -> &'static str {
        "cpe_entry"
    }

    fn unit(&self) -> &'static str {
        "row"
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn size(&self) -> Option<u64> {
        Some(self.tables.rows())
    }

    fn open(&self) -> PieceStream {
        let writer = RowLines {
            options: self.options.clone(),
            tally: self.tally.clone(),
            piece: Vec::new(),
            refused: Vec::new(),
            row: 0,
            unsent: 0,
        };
        pieces(self.tables.read().boxed(), writer).boxed()
    }
}

type Rows = stream::BoxStream<'static, Result<Bytes, OldTablesError>>;

fn pieces(rows: Rows, writer: RowLines) -> impl Stream<Item = io::Result<UploadPiece>> + Send {
    stream::unfold(Some((rows, writer)), |state| async {
        let (mut rows, mut writer) = state?;
        loop {
            match rows.next().await {
                Some(Ok(row)) => {
                    writer.write(&row);
                    if writer.is_full() {
                        return Some((Ok(writer.take()), Some((rows, writer))));
                    }
                }
                Some(Err(error)) => return Some((Err(io::Error::other(error)), None)),
                None if writer.unsent > 0 => return Some((Ok(writer.take()), None)),
                None => return None,
            }
        }
    })
}

/// Makes pieces of rows.
struct RowLines {
    options: Arc<RowOptions>,
    tally: Arc<Mutex<RowTally>>,
    piece: Vec<u8>,
    refused: Vec<LocalRefusal>,
    row: u64,
    unsent: usize,
}

impl RowLines {
    fn write(&mut self, row: &Bytes) {
        self.row += 1;
        self.unsent += 1;
        let mut codes = OldCodes::Missing;
        match serde_json::from_slice::<Map<String, Value>>(row) {
            Ok(columns) => {
                let chunk;
                (chunk, codes) = chunk_of(columns, &self.options);
                self.piece.extend_from_slice(Value::Object(chunk).to_string().as_bytes());
            }
            Err(error) => {
                // A database without an encoding can hold bytes that are no text.
                let message =
                    format!("the row is not UTF-8: {error}; correct it, or convert the old database");
                let failure = UploadFailure { code: "invalid_utf8".to_owned(), message, retryable: false };
                self.refused.push(LocalRefusal { line: self.row, failure, content: row.clone() });
            }
        }
        self.piece.push(b'\n');
        let mut tally = lock(&self.tally);
        if self.row > tally.rows {
            tally.rows = self.row;
            tally.out_of_range += u64::from(codes == OldCodes::OutOfRange);
            tally.no_answer += u64::from(codes == OldCodes::NoAnswer);
        }
    }

    fn is_full(&self) -> bool {
        self.piece.len() >= PIECE_BYTES || self.unsent >= PIECE_ROWS
    }

    fn take(&mut self) -> UploadPiece {
        self.unsent = 0;
        let lines = std::mem::take(&mut self.piece).into();
        UploadPiece { lines, refused: std::mem::take(&mut self.refused), position: self.row }
    }
}
