//! Inflates gzip and zstd in pieces of bounded size. Pure: no I/O, no clock.
//!
//! [`Inflate::step`] never writes more than the buffer it is given, so a small body that inflates to a large one
//! costs time, not memory; [`InflateError::Ratio`] stops a decompression bomb. Several gzip members or zstd frames in
//! a row are one body (RFC 1952, RFC 8878), and zeros after a gzip member are padding. A truncated body is always an
//! error. What was inflated before the damage is given first, and the error with the next step.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// The ratio is not checked up to this many inflated bytes: a few similar lines compress very well.
pub const RATIO_FREE_BYTES: u64 = 4 * 1024 * 1024;
/// Beyond [`RATIO_FREE_BYTES`], the most inflated bytes for each received byte.
pub const MAX_RATIO: u64 = 200;
/// The largest zstd window, 8 MiB: the limit of RFC 9659 for `Content-Encoding`, and the most memory of a stream.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The largest zstd window there is, 2 GiB: `zstd --long=31`. For files that their owner has packed.
const OWN_ZSTD_WINDOW_LOG: u32 = 31;
/// The window of gzip, 32 KiB; the format has no other.
const GZIP_WINDOW_LOG: u8 = 15;

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncoding {
    /// Not compressed.
    Identity,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl ContentEncoding {
    /// Reads the value of a `Content-Encoding` header, or several values joined by commas. `None` for an unsupported
    /// encoding and for more than one.
    pub fn from_header(value: &str) -> Option<ContentEncoding> {
        let named = |token: &&str| !token.is_empty() && !token.eq_ignore_ascii_case("identity");
        let mut layers = value.split(',').map(str::trim).filter(named);
        let outermost = layers.next();
        match (outermost.map(str::to_ascii_lowercase).as_deref(), layers.next()) {
            (None, None) => Some(ContentEncoding::Identity),
            (Some("gzip" | "x-gzip"), None) => Some(ContentEncoding::Gzip),
            (Some("zstd"), None) => Some(ContentEncoding::Zstd),
            _ => None,
        }
    }

    /// The name in headers and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            ContentEncoding::Identity => "identity",
            ContentEncoding::Gzip => "gzip",
            ContentEncoding::Zstd => "zstd",
        }
    }
}

/// Why a body cannot be inflated any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The bytes are not a stream of this format.
    #[error("the body is not valid {encoding}: {why}; compress it again and send it again")]
    Corrupt {
        /// The encoding that the sender declared.
        encoding: &'static str,
        /// The message of the decoder.
        why: String,
    },
    /// The body ended in the middle of a stream.
    #[error("the {encoding} body ends in the middle; compress it again and send it again")]
    Truncated {
        /// The encoding that the sender declared.
        encoding: &'static str,
    },
    /// It inflates to more than [`MAX_RATIO`] times its size.
    #[error(
        "the body inflates to more than {MAX_RATIO} times its size; send it less compressed, or not compressed"
    )]
    Ratio,
}

/// A streaming decoder for one body.
pub struct Inflate {
    decoder: FormatDecoder,
    /// Found behind the bytes that the last step has given.
    damage: Option<InflateError>,
    is_trusted: bool,
    taken: u64,
    inflated: u64,
}

enum FormatDecoder {
    Identity,
    Gzip(GzipDecoder),
    Zstd(ZstdDecoder),
}

impl Inflate {
    /// A decoder for a body in this encoding.
    ///
    /// # Errors
    /// [`InflateError::Corrupt`] when the zstd library cannot create a decoder.
    pub fn new(encoding: ContentEncoding) -> Result<Inflate, InflateError> {
        Inflate::with(encoding, false)
    }

    /// A decoder for a file that belongs to the one who reads it: any ratio and any window are taken.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_own_file(encoding: ContentEncoding) -> Result<Inflate, InflateError> {
        Inflate::with(encoding, true)
    }

    fn with(encoding: ContentEncoding, is_trusted: bool) -> Result<Inflate, InflateError> {
        let window = if is_trusted { OWN_ZSTD_WINDOW_LOG } else { ZSTD_WINDOW_LOG };
        let decoder = match encoding {
            ContentEncoding::Identity => FormatDecoder::Identity,
            ContentEncoding::Gzip => FormatDecoder::Gzip(GzipDecoder::new()),
            ContentEncoding::Zstd => FormatDecoder::Zstd(ZstdDecoder::new(window)?),
        };
        Ok(Inflate { decoder, damage: None, is_trusted, taken: 0, inflated: 0 })
    }

    /// Takes bytes from the front of `input` and writes to `output` until one of them is used up. Returns the number of
    /// bytes written. When `output` is full there may be more: call again, even with an empty `input`.
    ///
    /// # Errors
    /// See [`InflateError`]. The decoder cannot be used after an error.
    pub fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        let before = input.len();
        let (written, damage) = match &mut self.decoder {
            FormatDecoder::Identity => {
                let count = input.len().min(output.len());
                let (now, later) = input.split_at(count);
                output[..count].copy_from_slice(now);
                *input = later;
                return Ok(count);
            }
            FormatDecoder::Gzip(gzip) => gzip.step(input, output),
            FormatDecoder::Zstd(zstd) => zstd.step(input, output),
        };
        match damage {
            Err(damage) if written == 0 => return Err(damage),
            damage => self.damage = damage.err(),
        }
        self.taken += (before - input.len()) as u64;
        self.inflated += written as u64;
        let is_bomb = self.inflated > RATIO_FREE_BYTES && self.inflated / MAX_RATIO > self.taken;
        if is_bomb && !self.is_trusted {
            return Err(InflateError::Ratio);
        }
        Ok(written)
    }

    /// The next step reports damage, whatever its input.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Checks that the body is complete. Call after all of it went through [`Self::step`].
    ///
    /// # Errors
    /// [`InflateError::Truncated`] when the end is missing.
    pub fn finish(&self) -> Result<(), InflateError> {
        if let Some(damage) = &self.damage {
            return Err(damage.clone());
        }
        let (whole, encoding) = match &self.decoder {
            FormatDecoder::Identity => (true, ContentEncoding::Identity),
            FormatDecoder::Gzip(gzip) => (gzip.whole, ContentEncoding::Gzip),
            FormatDecoder::Zstd(zstd) => (zstd.whole, ContentEncoding::Zstd),
        };
        if whole { Ok(()) } else { Err(InflateError::Truncated { encoding: encoding.name() }) }
    }
}

fn corrupt(encoding: ContentEncoding, why: impl ToString) -> InflateError {
    InflateError::Corrupt { encoding: encoding.name(), why: why.to_string() }
}

/// gzip members in a row. The library checks header, checksum and length.
struct GzipDecoder {
    decoder: Decompress,
    /// A member has just ended.
    whole: bool,
}

impl GzipDecoder {
    fn new() -> Self {
        GzipDecoder { decoder: Decompress::new_gzip(GZIP_WINDOW_LOG), whole: false }
    }

    /// The number of bytes written, and the damage behind them.
    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> (usize, Result<(), InflateError>) {
        let mut written = 0;
        loop {
            if self.whole {
                // Tapes and some writers fill their blocks with zeros. No member begins with one.
                let padding = input.iter().take_while(|byte| **byte == 0).count();
                *input = &input[padding..];
                if input.is_empty() || written == output.len() {
                    return (written, Ok(()));
                }
                self.decoder.reset(true);
                self.whole = false;
            }
            let (taken, made) = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(input, &mut output[written..], FlushDecompress::None);
            // Both counts are bounded by the lengths of the slices.
            *input = &input[(self.decoder.total_in() - taken) as usize..];
            written += (self.decoder.total_out() - made) as usize;
            match status {
                Ok(Status::StreamEnd) => self.whole = true,
                Ok(Status::Ok) if !input.is_empty() && written < output.len() => {}
                Ok(Status::Ok | Status::BufError) => return (written, Ok(())),
                Err(error) => return (written, Err(corrupt(ContentEncoding::Gzip, error))),
            }
        }
    }
}

/// zstd frames in a row. The library checks checksums where a frame has one.
struct ZstdDecoder {
    decoder: Decoder<'static>,
    /// The first bytes of a frame, at most four.
    magic: Vec<u8>,
    /// The bytes that the library wants next: a header, or a block. With no more than these it works on one block at a
    /// time, so that damage in the next block takes nothing from this one.
    wanted: usize,
    /// A frame has just ended.
    whole: bool,
}

impl ZstdDecoder {
    fn new(window_log: u32) -> Result<Self, InflateError> {
        let decoder = Decoder::new().and_then(|mut decoder| {
            decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
            Ok(decoder)
        });
        let decoder = decoder.map_err(|error| corrupt(ContentEncoding::Zstd, error))?;
        Ok(ZstdDecoder { decoder, magic: Vec::with_capacity(4), wanted: 0, whole: false })
    }

    /// The number of bytes written, and the damage behind them.
    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> (usize, Result<(), InflateError>) {
        let mut written = 0;
        while written < output.len() {
            if self.magic.len() < 4 {
                let Some((first, rest)) = input.split_first() else { break };
                *input = rest;
                self.whole = false;
                self.magic.push(*first);
                if self.magic.len() == 4 {
                    let magic = std::mem::take(&mut self.magic);
                    self.wanted = magic.len();
                    let begun = check_magic(&magic).and_then(|()| self.run(&mut magic.as_slice(), &mut []));
                    if let Err(damage) = begun {
                        return (written, Err(damage));
                    }
                    self.magic = magic;
                }
                continue;
            }
            let before = input.len();
            match self.run(input, &mut output[written..]) {
                Ok(0) if before == input.len() => break,
                Ok(made) => written += made,
                Err(damage) => return (written, Err(damage)),
            }
        }
        (written, Ok(()))
    }

    fn run(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        let now = &input[..input.len().min(self.wanted)];
        let (mut from, mut to) = (InBuffer::around(now), OutBuffer::around(output));
        let hint =
            self.decoder.run(&mut from, &mut to).map_err(|error| corrupt(ContentEncoding::Zstd, error))?;
        let (taken, made) = (from.pos(), to.pos());
        *input = &input[taken..];
        self.wanted = hint;
        if hint == 0 {
            self.whole = true;
            self.magic.clear();
        }
        Ok(made)
    }
}

/// Accepts current and skippable frames only. The library can be built with decoders for the formats before 1.0, whose
/// windows it does not limit.
fn check_magic(magic: &[u8]) -> Result<(), InflateError> {
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => Ok(()),
        [skippable, 0x2a, 0x4d, 0x18] if skippable & 0xf0 == 0x50 => Ok(()),
        _ => Err(corrupt(ContentEncoding::Zstd, "no frame begins here")),
    }
}

#[cfg(test)]
mod tests;
