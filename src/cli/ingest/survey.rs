//! One look at a whole file before it is sent: what its bytes are, and how many chunks they hold.

use crate::wire::{ContentEncoding, Inflate, InflateError, LineDecoder};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

const BUFFER: usize = 256 * 1024;

/// What the name of a file says about its bytes.
pub fn encoding_of(path: &Path) -> ContentEncoding {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => ContentEncoding::Gzip,
        Some("zst") => ContentEncoding::Zstd,
        _ => ContentEncoding::Identity,
    }
}

/// A file as it was when it was looked at.
#[derive(Debug)]
pub struct Survey {
    /// How it is compressed.
    pub encoding: ContentEncoding,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// blake3 of its bytes, in hex.
    pub fingerprint: String,
    /// Lines that are not blank, each of which will have an answer.
    pub chunks: u64,
    /// Why it cannot be inflated to its end. The service will say the same, after the lines before the damage.
    pub damage: Option<InflateError>,
    then: State,
}

/// What changes with the contents of a file: its length, and the time of its last change.
type State = (u64, Option<SystemTime>);

fn state(metadata: &Metadata) -> State {
    (metadata.len(), metadata.modified().ok())
}

impl Survey {
    /// Reads the file once.
    ///
    /// # Errors
    /// The system's.
    pub fn of(path: &Path) -> io::Result<Survey> {
        let encoding = encoding_of(path);
        let mut file = File::open(path)?;
        let then = state(&file.metadata()?);
        let mut count = Count::new(encoding);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            bytes += read as u64;
            hasher.update(&buffer[..read]);
            count.source(&buffer[..read]);
        }
        let (chunks, damage) = count.finish();
        Ok(Survey {
            encoding,
            bytes,
            fingerprint: hasher.finalize().to_hex().to_string(),
            chunks,
            damage,
            then,
        })
    }

    /// The file is another one now: its lines are not the ones that were counted.
    pub fn is_outdated(&self, path: &Path) -> bool {
        !std::fs::metadata(path).is_ok_and(|now| state(&now) == self.then)
    }
}

/// Counts as the service does, with the service's own decoders.
struct Count {
    inflate: Result<Inflate, InflateError>,
    inflated: Vec<u8>,
    lines: LineDecoder,
    chunks: u64,
}

impl Count {
    fn new(encoding: ContentEncoding) -> Self {
        let inflate = Inflate::new(encoding);
        Count { inflate, inflated: vec![0; BUFFER], lines: LineDecoder::default(), chunks: 0 }
    }

    fn source(&mut self, mut piece: &[u8]) {
        let Ok(inflate) = &mut self.inflate else { return };
        loop {
            match inflate.step(&mut piece, &mut self.inflated) {
                Ok(written) => {
                    self.lines.feed(&self.inflated[..written]);
                    self.chunks += std::iter::from_fn(|| self.lines.next_line()).count() as u64;
                    if piece.is_empty() && written < self.inflated.len() {
                        return;
                    }
                }
                Err(error) => {
                    self.inflate = Err(error);
                    return;
                }
            }
        }
    }

    fn finish(mut self) -> (u64, Option<InflateError>) {
        match self.inflate.and_then(|inflate| inflate.finish()) {
            // A file that is cut off has no last line: what is left is a piece of one.
            Ok(()) => (self.chunks + u64::from(self.lines.last_line().is_some()), None),
            Err(error) => (self.chunks, Some(error)),
        }
    }
}
