//! Bodies that are made while they are sent, so that only one process holds any of them.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, stream};
use std::io::{self, Write};

/// Bytes that are handed on at a time, at least.
const PIECE: usize = 64 * 1024;

/// How a body goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Identity,
    Gzip,
    Zstd,
}

impl Packing {
    pub const ALL: [Packing; 3] = [Packing::Identity, Packing::Gzip, Packing::Zstd];

    pub fn name(self) -> &'static str {
        match self {
            Packing::Identity => "identity",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}

enum Packer {
    Identity(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    fn new(packing: Packing) -> io::Result<Packer> {
        Ok(match packing {
            Packing::Identity => Packer::Identity(Vec::new()),
            Packing::Gzip => Packer::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Packing::Zstd => Packer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
        })
    }

    fn add(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Packer::Identity(out) => out.write_all(line),
            Packer::Gzip(encoder) => encoder.write_all(line),
            Packer::Zstd(encoder) => encoder.write_all(line),
        }
    }

    fn packed(&mut self) -> &mut Vec<u8> {
        match self {
            Packer::Identity(out) => out,
            Packer::Gzip(encoder) => encoder.get_mut(),
            Packer::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Packer::Identity(out) => Ok(out),
            Packer::Gzip(encoder) => encoder.finish(),
            Packer::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// The lines that `line` appends for 0, 1 and so on up to `count`.
pub fn lines(
    count: usize,
    packing: Packing,
    line: impl FnMut(usize, &mut Vec<u8>) + Send + 'static,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let start = (0, Some(Packer::new(packing)?), line);
    Ok(stream::unfold(start, move |(mut at, packer, mut line)| async move {
        let mut packer = packer?;
        let mut plain = Vec::with_capacity(2 * PIECE);
        let full = loop {
            if at == count {
                break packer.finish().map(|last| (last, None));
            }
            plain.clear();
            while at < count && plain.len() < PIECE {
                line(at, &mut plain);
                at += 1;
            }
            if let Err(error) = packer.add(&plain) {
                break Err(error);
            }
            if packer.packed().len() >= PIECE {
                break Ok((std::mem::take(packer.packed()), Some(packer)));
            }
        };
        Some(match full {
            Ok((piece, packer)) => (Ok(piece.into()), (at, packer, line)),
            Err(error) => (Err(error), (at, None, line)),
        })
    }))
}

/// Words in an order that does not repeat, so that nothing is unusually easy to compress or to tokenize.
pub struct Words(u64);

const WORDS: &str = "river mountain science history energy machine garden ocean theory castle village music planet \
    animal doctor engine winter summer language painter border bridge forest island market metal money north paper \
    people period power railway region school season signal silver soldier south station stone street student system \
    temple tower trade university valley water weather window writer century battle church council country culture \
    the of and in to was is for as on with by that from at which were be this his are had it an or its one has not";

impl Words {
    /// The same for the same number.
    pub fn new(seed: usize) -> Words {
        Words((seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// So many bytes of them, about.
    pub fn write(&mut self, bytes: usize, to: &mut Vec<u8>) {
        let end = to.len() + bytes;
        let words = vocabulary();
        while to.len() < end {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            to.extend_from_slice(words[(self.0 >> 32) as usize % words.len()].as_bytes());
            to.push(b' ');
        }
    }
}

fn vocabulary() -> &'static [&'static str] {
    static ALL: std::sync::OnceLock<Vec<&str>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| WORDS.split_whitespace().collect())
}
