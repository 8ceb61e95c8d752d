//! Inflates gzip and zstd in pieces of bounded size, whatever the bytes promise. Pure: no I/O, no clock.
//!
//! [`Inflate::step`] never writes more than the buffer it is given, so a small body that inflates to a large one
//! costs time, not memory; [`InflateError::Ratio`] ends it when it is a bomb. A stream of several gzip members or
//! zstd frames is one body, as RFC 1952 and RFC 8878 say. What is missing at the end is an error, never silence.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Inflated bytes for which no ratio is asked: a few lines of one kind may be very alike.
pub const RATIO_FREE_BYTES: u64 = 4 * 1024 * 1024;
/// Beyond that, inflated bytes for each byte received, at most.
pub const MAX_RATIO: u64 = 200;
/// The largest zstd window, 8 MiB: what RFC 9659 allows for `Content-Encoding`, and what a stream costs at most.
const ZSTD_WINDOW_LOG: u32 = 23;
/// gzip's only window, 32 KiB.
const GZIP_WINDOW_LOG: u8 = 15;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Reads the value of a `Content-Encoding` header, or several joined by commas. `None`: not one of ours, or more
    /// than one on top of each other.
    pub fn from_header(value: &str) -> Option<Encoding> {
        let named = |token: &&str| !token.is_empty() && !token.eq_ignore_ascii_case("identity");
        let mut layers = value.split(',').map(str::trim).filter(named);
        let outermost = layers.next();
        match (outermost.map(str::to_ascii_lowercase).as_deref(), layers.next()) {
            (None, None) => Some(Encoding::Identity),
            (Some("gzip" | "x-gzip"), None) => Some(Encoding::Gzip),
            (Some("zstd"), None) => Some(Encoding::Zstd),
            _ => None,
        }
    }

    /// The name in headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Identity => "identity",
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
        }
    }
}

/// Why a body cannot be inflated further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// These are not the bytes of such a stream.
    #[error("the body is not valid {encoding}: {why}; compress it again and send it again")]
    Corrupt {
        /// What was said to be sent.
        encoding: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// The body ended inside a stream.
    #[error("the {encoding} body ends in the middle; compress it again and send it again")]
    Truncated {
        /// What was said to be sent.
        encoding: &'static str,
    },
    /// It inflates to too much.
    #[error(
        "the body inflates to more than {MAX_RATIO} times its size; send it less compressed, or not compressed"
    )]
    Ratio,
}

/// The decoder of one body.
pub struct Inflate {
    layer: Layer,
    taken: u64,
    inflated: u64,
}

enum Layer {
    Identity,
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Inflate {
    /// For a body in this encoding.
    ///
    /// # Errors
    /// [`InflateError::Corrupt`] when the decoder cannot be made.
    pub fn new(encoding: Encoding) -> Result<Inflate, InflateError> {
        let layer = match encoding {
            Encoding::Identity => Layer::Identity,
            Encoding::Gzip => Layer::Gzip(Gzip::new()),
            Encoding::Zstd => Layer::Zstd(Zstd::new()?),
        };
        Ok(Inflate { layer, taken: 0, inflated: 0 })
    }

    /// Takes bytes from the front of `input` and writes to `output`, until one of them is used up; gives the bytes
    /// written. When `output` came back full there may be more to write: call again, also with an empty `input`.
    ///
    /// # Errors
    /// See [`InflateError`]; nothing more can be read after one.
    pub fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        let before = input.len();
        let written = match &mut self.layer {
            Layer::Identity => {
                let count = input.len().min(output.len());
                let (now, later) = input.split_at(count);
                output[..count].copy_from_slice(now);
                *input = later;
                return Ok(count);
            }
            Layer::Gzip(gzip) => gzip.step(input, output)?,
            Layer::Zstd(zstd) => zstd.step(input, output)?,
        };
        self.taken += (before - input.len()) as u64;
        self.inflated += written as u64;
        if self.inflated > RATIO_FREE_BYTES && self.inflated / MAX_RATIO > self.taken {
            return Err(InflateError::Ratio);
        }
        Ok(written)
    }

    /// Call when the body has ended and all of it went through [`Self::step`].
    ///
    /// # Errors
    /// [`InflateError::Truncated`] when something is missing.
    pub fn finish(&self) -> Result<(), InflateError> {
        let (whole, encoding) = match &self.layer {
            Layer::Identity => (true, Encoding::Identity),
            Layer::Gzip(gzip) => (gzip.whole, Encoding::Gzip),
            Layer::Zstd(zstd) => (zstd.whole, Encoding::Zstd),
        };
        if whole { Ok(()) } else { Err(InflateError::Truncated { encoding: encoding.name() }) }
    }
}

fn corrupt(encoding: Encoding, why: impl ToString) -> InflateError {
    InflateError::Corrupt { encoding: encoding.name(), why: why.to_string() }
}

/// Members one after the other; head, checksum and length are checked by the decoder.
struct Gzip {
    decoder: Decompress,
    /// At the end of a member, and not at the beginning of the body.
    whole: bool,
}

impl Gzip {
    fn new() -> Self {
        Gzip { decoder: Decompress::new_gzip(GZIP_WINDOW_LOG), whole: false }
    }

    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        let mut written = 0;
        loop {
            if self.whole {
                if input.is_empty() || written == output.len() {
                    return Ok(written);
                }
                self.decoder.reset(true);
                self.whole = false;
            }
            let (taken, made) = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(input, &mut output[written..], FlushDecompress::None);
            let status = status.map_err(|error| corrupt(Encoding::Gzip, error))?;
            // Both counts are bounded by the slices that were given.
            *input = &input[(self.decoder.total_in() - taken) as usize..];
            written += (self.decoder.total_out() - made) as usize;
            match status {
                Status::StreamEnd => self.whole = true,
                Status::Ok if !input.is_empty() && written < output.len() => {}
                Status::Ok | Status::BufError => return Ok(written),
            }
        }
    }
}

/// Frames one after the other; checksums are checked where there are any.
struct Zstd {
    decoder: Decoder<'static>,
    /// The first bytes of a frame, as far as they are here.
    magic: Vec<u8>,
    /// At the end of a frame, and not at the beginning of the body.
    whole: bool,
}

impl Zstd {
    fn new() -> Result<Self, InflateError> {
        let decoder = Decoder::new().and_then(|mut decoder| {
            decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
            Ok(decoder)
        });
        let decoder = decoder.map_err(|error| corrupt(Encoding::Zstd, error))?;
        Ok(Zstd { decoder, magic: Vec::with_capacity(4), whole: false })
    }

    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        let mut written = 0;
        while written < output.len() {
            if self.magic.len() < 4 {
                let Some((first, rest)) = input.split_first() else { break };
                *input = rest;
                self.whole = false;
                self.magic.push(*first);
                if self.magic.len() == 4 {
                    check_magic(&self.magic)?;
                    let magic = std::mem::take(&mut self.magic);
                    self.run(&mut magic.as_slice(), &mut output[written..])?;
                    self.magic = magic;
                }
                continue;
            }
            let before = input.len();
            let made = self.run(input, &mut output[written..])?;
            written += made;
            if made == 0 && before == input.len() {
                break;
            }
        }
        Ok(written)
    }

    fn run(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, InflateError> {
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
        let hint = self.decoder.run(&mut from, &mut to).map_err(|error| corrupt(Encoding::Zstd, error))?;
        let (taken, made) = (from.pos(), to.pos());
        *input = &input[taken..];
        if hint == 0 {
            self.whole = true;
            self.magic.clear();
        }
        Ok(made)
    }
}

/// Lets frames of today and skippable ones pass. The library can be built with the decoders of formats before 1.0,
/// which nobody sends and whose windows it does not limit.
fn check_magic(magic: &[u8]) -> Result<(), InflateError> {
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => Ok(()),
        [skippable, 0x2a, 0x4d, 0x18] if skippable & 0xf0 == 0x50 => Ok(()),
        _ => Err(corrupt(Encoding::Zstd, "no frame begins here")),
    }
}

#[cfg(test)]
mod tests;
