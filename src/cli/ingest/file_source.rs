//! A file as the source of an upload: it is read on a thread of its own, some pieces ahead of the connection.

use crate::cli::upload::{LocalRefusal, PieceStream, UploadFailure, UploadPiece};
use crate::input::{InputPiece, PieceReader, ReadCount};
use futures_util::{StreamExt, stream};
use std::io;
use tokio::sync::mpsc;

/// Pieces that are read and not yet sent.
const AHEAD: usize = 4;

/// A message of the thread: pieces, then how it ended. A channel that closes without an end is that of a thread that
/// panicked.
enum FromReader {
    Piece(InputPiece, u64),
    End(io::Result<()>),
}

/// The pieces of a file that `open` begins to read. `count` is the position after each piece.
pub fn read_on_a_thread(
    count: ReadCount,
    open: impl FnOnce() -> io::Result<Box<dyn PieceReader>> + Send + 'static,
) -> PieceStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let reading = move || {
        let end = open().and_then(|mut reader| {
            while let Some(piece) = reader.next_piece()? {
                if sender.blocking_send(FromReader::Piece(piece, count.get())).is_err() {
                    break;
                }
            }
            Ok(())
        });
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

fn upload_piece(piece: InputPiece, position: u64) -> UploadPiece {
    let refused = piece.refused.into_iter().map(|row| LocalRefusal {
        line: row.number,
        failure: UploadFailure { code: row.code.to_owned(), message: row.message, retryable: false },
        content: row.content,
    });
    UploadPiece { lines: piece.lines, refused: refused.collect(), position }
}
