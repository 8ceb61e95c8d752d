//! Compressed files, recognised by their first bytes and inflated while they are read.

use crate::wire::{ContentEncoding, Inflate, InflateError};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER: usize = 64 * 1024;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// It is read as it is.
    Plain,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// By the first bytes of a file, four at least unless it is shorter.
    pub fn of(begin: &[u8]) -> Compression {
        match begin {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A frame to be skipped, which some writers put in front.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::Plain,
        }
    }

    fn encoding(self) -> ContentEncoding {
        match self {
            Compression::Plain => ContentEncoding::Identity,
            Compression::Gzip => ContentEncoding::Gzip,
            Compression::Zstd => ContentEncoding::Zstd,
        }
    }
}

/// The number of bytes read from a file so far, for those who watch.
#[derive(Debug, Clone, Default)]
pub struct ReadCount(Arc<AtomicU64>);

impl ReadCount {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts further bytes.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The inflated bytes of a file.
pub struct Inflated<R> {
    file: R,
    inflate: Inflate,
    buffer: Box<[u8]>,
    unread: std::ops::Range<usize>,
    count: ReadCount,
    ended: bool,
}

impl<R: Read> Inflated<R> {
    /// Inflates `file`, which is compressed in this way. `count` counts the bytes that are read from it.
    ///
    /// # Errors
    /// The zstd library cannot create a decoder.
    pub fn new(file: R, compression: Compression, count: ReadCount) -> io::Result<Self> {
        let inflate = Inflate::of_own_file(compression.encoding()).map_err(in_words)?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Inflated { file, inflate, buffer, unread: 0..0, count, ended: false })
    }
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !to.is_empty() {
            let mut input = &self.buffer[self.unread.clone()];
            let written = self.inflate.step(&mut input, to).map_err(in_words)?;
            self.unread.start = self.unread.end - input.len();
            if written > 0 {
                return Ok(written);
            }
            let read = self.file.read(&mut self.buffer)?;
            self.count.add(read);
            self.unread = 0..read;
            if read == 0 {
                self.inflate.finish().map_err(in_words)?;
                self.ended = true;
            }
        }
        Ok(0)
    }
}

fn in_words(error: InflateError) -> io::Error {
    let sentence = match error {
        InflateError::Corrupt { encoding, why } => {
            format!(
                "the {encoding} data is damaged ({why}); what was before the damage is sent. Get the file again"
            )
        }
        InflateError::Truncated { encoding } => {
            format!("the {encoding} data ends in the middle; what was before is sent. Get the file again")
        }
        other => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(plain).unwrap();
        packed.finish().unwrap()
    }

    fn read(file: &[u8]) -> io::Result<Vec<u8>> {
        let count = ReadCount::default();
        let mut found = Vec::new();
        let outcome = Inflated::new(file, Compression::of(file), count.clone())?.read_to_end(&mut found);
        assert_eq!(count.get(), file.len() as u64);
        outcome.map(|_| found)
    }

    #[test]
    fn files_are_recognised_by_their_first_bytes_and_inflated_at_any_ratio() {
        // 50 MB of zeros are 50 KB, a thousandth: the service would refuse such a body.
        let plain = vec![b' '; 50_000_000];
        for packed in [gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap(), plain.clone()] {
            assert!(read(&packed).unwrap() == plain);
        }
        let twice = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&twice).unwrap(), b"one two");
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn a_window_of_any_size_is_read() {
        let mut packer = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        packer.window_log(27).unwrap();
        packer.long_distance_matching(true).unwrap();
        packer.write_all(b"text").unwrap();
        assert_eq!(read(&packer.finish().unwrap()).unwrap(), b"text");
    }

    #[test]
    fn what_is_damaged_says_so_after_what_is_whole() {
        let packed = gzip("a line\n".repeat(100_000).as_bytes());
        let mut found = Vec::new();
        let cut = &packed[..packed.len() / 2];
        let error =
            Inflated::new(cut, Compression::Gzip, ReadCount::default()).unwrap().read_to_end(&mut found);
        assert!(error.unwrap_err().to_string().contains("the gzip data ends in the middle"));
        assert!(found.len() > 100_000);
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0x55;
        let error = read(&flipped).unwrap_err().to_string();
        assert!(error.contains("the gzip data is damaged"), "{error}");
    }
}
