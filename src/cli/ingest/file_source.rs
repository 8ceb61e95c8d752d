//! A file as the source of an upload: it is read on a thread of its own, some pieces ahead of the connection.

use crate::cli::upload::{LocalRefusal, PieceStream, UploadFailure, UploadPiece, UploadSource};
use crate::input::{Input, InputPiece, ReadCount};
use futures_util::{StreamExt, stream};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces that are read and not yet sent.
const AHEAD: usize = 4;

/// See the module.
pub struct FileSource(Arc<Input>);

/// A message of the thread: pieces, then how it ended. A channel that closes without an end is that of a thread that
/// panicked.
enum FromReader {
    Piece(InputPiece, u64),
    End(io::Result<()>),
}

impl FileSource {
    /// The chunks of this file.
    pub fn new(input: Input) -> Self {
        FileSource(Arc::new(input))
    }
}

impl UploadSource for FileSource {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn unit(&self) -> &'static str {
        self.0.kind().unit()
    }

    fn can_reopen(&self) -> bool {
        self.0.can_reopen()
    }

    fn size(&self) -> Option<u64> {
        self.0.size()
    }

    fn is_outdated(&self) -> bool {
        self.0.is_outdated()
    }

    fn open(&self) -> PieceStream {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let input = self.0.clone();
        let reading = move || {
            let end = read(&input, &sender);
            // An upload that has ended does not want to know.
            drop(sender.blocking_send(FromReader::End(end)));
        };
        if let Err(error) = std::thread::Builder::new().name("reader".to_owned()).spawn(reading) {
            return stream::iter([Err(error)]).boxed();
        }
        stream::unfold(Some(receiver), |receiver| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(FromReader::Piece(piece, position)) => {
                    Some((Ok(upload_piece(piece, position)), Some(receiver)))
                }
                Some(FromReader::End(Ok(()))) => None,
                Some(FromReader::End(Err(error))) => Some((Err(error), None)),
                None => Some((Err(io::Error::other("reading it failed; please report this")), None)),
            }
        })
        .boxed()
    }
}

fn read(input: &Input, sender: &mpsc::Sender<FromReader>) -> io::Result<()> {
    let count = ReadCount::default();
    let mut reader = input.open(count.clone())?;
    while let Some(piece) = reader.next_piece()? {
        if sender.blocking_send(FromReader::Piece(piece, count.get())).is_err() {
            break;
        }
    }
    Ok(())
}

fn upload_piece(piece: InputPiece, position: u64) -> UploadPiece {
    let refused = piece.refused.into_iter().map(|row| LocalRefusal {
        line: row.number,
        failure: UploadFailure { code: row.code.to_owned(), message: row.message, retryable: false },
        content: row.content,
    });
    UploadPiece { lines: piece.lines, refused: refused.collect(), position }
}
