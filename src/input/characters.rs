//! Files that are not UTF-8, decoded while they are read.

use super::error::{InputError, damaged};
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use std::io::{self, Read};

const BUFFER: usize = 32 * 1024;

/// How the characters of a file are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CharacterEncoding {
    encoding: &'static Encoding,
    /// The length of the mark at the beginning, in bytes.
    mark: usize,
}

impl CharacterEncoding {
    /// By the first bytes of a file: a byte order mark, or the zeros that UTF-16 has between ASCII characters. Everything
    /// else is UTF-8, unless another encoding is `wanted`.
    ///
    /// # Errors
    /// UTF-32.
    pub fn of(begin: &[u8], wanted: Option<&'static Encoding>) -> Result<CharacterEncoding, InputError> {
        let is_wide = matches!(begin, [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..])
            || matches!(begin, [0x20..0x7f, 0, 0, 0, ..] | [0, 0, 0, 0x20..0x7f, ..]);
        if is_wide {
            let message =
                "is UTF-32, which is not read: convert it, for example with iconv -f UTF-32 -t UTF-8";
            return Err(InputError::Unusable(message.to_owned()));
        }
        if let Some((encoding, mark)) = Encoding::for_bom(begin) {
            return Ok(CharacterEncoding { encoding, mark });
        }
        let guessed = match begin {
            [0x20..0x7f, 0, 1..=0xff, 0, ..] => UTF_16LE,
            [0, 0x20..0x7f, 0, 1..=0xff, ..] => UTF_16BE,
            _ => UTF_8,
        };
        Ok(CharacterEncoding { encoding: wanted.unwrap_or(guessed), mark: 0 })
    }

    /// Nothing is decoded.
    pub fn is_utf8(self) -> bool {
        self.encoding == UTF_8
    }

    /// The first bytes of a file as UTF-8, as far as they can be decoded.
    pub fn decode_begin(self, begin: &[u8]) -> Vec<u8> {
        let begin = &begin[self.mark.min(begin.len())..];
        if self.is_utf8() {
            return begin.to_vec();
        }
        let mut decoder = self.encoding.new_decoder_without_bom_handling();
        let mut text = vec![0; decoder.max_utf8_buffer_length(begin.len()).unwrap_or(0)];
        let (_, _, written, _) = decoder.decode_to_utf8(begin, &mut text, false);
        text.truncate(written);
        text
    }

    /// The file as UTF-8, without its mark.
    ///
    /// # Errors
    /// The system's.
    pub fn reader(self, mut file: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        io::copy(&mut (&mut file).take(self.mark as u64), &mut io::sink())?;
        if self.is_utf8() {
            return Ok(file);
        }
        Ok(Box::new(Decoded {
            file,
            decoder: self.encoding.new_decoder_without_bom_handling(),
            name: self.encoding.name(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            unread: 0..0,
            at_end: false,
            ended: false,
            spare: Vec::new(),
        }))
    }
}

/// A file in UTF-8, decoded from another encoding. UTF-8 itself is not checked here: what is wrong is wrong in one row.
struct Decoded {
    file: Box<dyn Read + Send>,
    decoder: Decoder,
    name: &'static str,
    buffer: Box<[u8]>,
    unread: std::ops::Range<usize>,
    at_end: bool,
    ended: bool,
    /// Decoded bytes that had no room: a character can be longer than what is left of a buffer.
    spare: Vec<u8>,
}

impl Read for Decoded {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        // The decoder wants room for a whole character.
        if to.len() < 16 && self.spare.is_empty() {
            let mut spare = vec![0; 64];
            let read = self.decode(&mut spare)?;
            spare.truncate(read);
            self.spare = spare;
        }
        if !self.spare.is_empty() {
            let count = self.spare.len().min(to.len());
            to[..count].copy_from_slice(&self.spare[..count]);
            self.spare.drain(..count);
            return Ok(count);
        }
        if to.len() < 16 { Ok(0) } else { self.decode(to) }
    }
}

impl Decoded {
    fn decode(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            if self.unread.is_empty() && !self.at_end {
                let read = self.file.read(&mut self.buffer)?;
                self.unread = 0..read;
                self.at_end = read == 0;
            }
            let input = &self.buffer[self.unread.clone()];
            let (result, taken, written) =
                self.decoder.decode_to_utf8_without_replacement(input, to, self.at_end);
            self.unread.start += taken;
            match result {
                DecoderResult::Malformed(..) => {
                    return Err(damaged(format!(
                        "is not valid {0} from here on; name its encoding with --encoding, or convert it",
                        self.name
                    )));
                }
                DecoderResult::InputEmpty => self.ended = self.at_end,
                DecoderResult::OutputFull => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, little: bool, mark: bool) -> Vec<u8> {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
    }

    fn read(file: &[u8], wanted: Option<&'static Encoding>, step: usize) -> io::Result<String> {
        let encoding = CharacterEncoding::of(&file[..file.len().min(16)], wanted).unwrap();
        let mut reader = encoding.reader(Box::new(io::Cursor::new(file.to_vec())))?;
        let (mut all, mut piece) = (Vec::new(), vec![0; step]);
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(String::from_utf8(all).unwrap()),
                read => all.extend_from_slice(&piece[..read]),
            }
        }
    }

    #[test]
    fn marks_and_zeros_tell_the_encoding_and_a_label_names_others() {
        let text = format!("text,id\nGödel 漢字 🦀,{}\n", "x".repeat(100_000));
        for step in [1, 7, 64, 100_000] {
            for (little, mark) in [(true, true), (true, false), (false, true), (false, false)] {
                assert_eq!(read(&utf16(&text, little, mark), None, step).unwrap(), text);
            }
            assert_eq!(read(format!("\u{feff}{text}").as_bytes(), None, step).unwrap(), text);
            assert_eq!(read(text.as_bytes(), None, step).unwrap(), text);
            let windows = Encoding::for_label(b"latin1");
            assert_eq!(read(b"caf\xe9 \x80", windows, step).unwrap(), "café €");
        }
        assert_eq!(read(b"", None, 9).unwrap(), "");
        let broken = [&utf16("abc", true, true)[..], b"\x00\xd8"].concat();
        assert!(read(&broken, None, 64).unwrap_err().to_string().contains("is not valid UTF-16LE"));
        let wide = CharacterEncoding::of(b"\xff\xfe\0\0t\0\0\0", None).unwrap_err().to_string();
        assert!(wide.contains("iconv"), "{wide}");
    }
}
