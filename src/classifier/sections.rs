//! The sections of an artefact, one after the other.

use super::artefact_error::ArtefactError;
use super::language::{Language, MOST_LANGUAGES};
use super::tokens::Vocabulary;
use rustc_hash::FxHashMap;

/// Flag: the token continues a word ("##s" in WordPiece).
const CONTINUES: u8 = 1;
/// Flag: the token is an inflection without votes.
const SKIPPED: u8 = 2;

pub(super) fn text<'a>(section: &'static str, bytes: &'a [u8]) -> Result<&'a str, ArtefactError> {
    std::str::from_utf8(bytes).map_err(|_| ArtefactError::Value {
        section,
        expected: "UTF-8",
        received: format!("{bytes:?}"),
    })
}

/// The unread rest of the artefact.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, section: &'static str, length: usize) -> Result<&'a [u8], ArtefactError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ArtefactError::Length {
            section,
            expected: length,
            received: self.0.len(),
        })?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, section: &'static str) -> Result<[u8; N], ArtefactError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(section, N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, section: &'static str) -> Result<u8, ArtefactError> {
        self.array(section).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, section: &'static str) -> Result<u16, ArtefactError> {
        self.array(section).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, section: &'static str) -> Result<u32, ArtefactError> {
        self.array(section).map(u32::from_le_bytes)
    }

    /// A positive logit per vote. With NaN or a negative value the winner would get the lowest confidence.
    pub(super) fn unit(&mut self) -> Result<f32, ArtefactError> {
        let unit = self.array("units").map(f32::from_le_bytes)?;
        if unit.is_finite() && unit > 0.0 {
            return Ok(unit);
        }
        Err(ArtefactError::Value {
            section: "units",
            expected: "a positive number",
            received: unit.to_string(),
        })
    }

    /// Removes the checksum from the end and compares it with that of all bytes before it.
    pub(super) fn check_against(&mut self, bytes: &[u8]) -> Result<(), ArtefactError> {
        let (rest, stored) = self.0.split_last_chunk::<4>().map_or(
            Err(ArtefactError::Length { section: "checksum", expected: 4, received: self.0.len() }),
            |(rest, stored)| Ok((rest, u32::from_le_bytes(*stored))),
        )?;
        let computed = crc32fast::hash(&bytes[..bytes.len() - 4]);
        if stored != computed {
            return Err(ArtefactError::Checksum { expected: stored, received: computed });
        }
        self.0 = rest;
        Ok(())
    }

    pub(super) fn vocabulary(&mut self, rows: u32) -> Result<Vocabulary, ArtefactError> {
        let mut vocabulary = Vocabulary::default();
        for row in 0..rows {
            let flags = self.u8("tokens")?;
            let length = usize::from(self.u8("tokens")?);
            let token = text("tokens", self.take("tokens", length)?)?;
            let sound =
                !token.is_empty() && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let row = (flags & SKIPPED == 0).then_some(row);
            if !sound || flags > CONTINUES | SKIPPED || !vocabulary.add(token, flags & CONTINUES != 0, row) {
                return Err(ArtefactError::Value {
                    section: "tokens",
                    expected: "distinct lower-case ASCII words",
                    received: format!("{token:?} with flags {flags}"),
                });
            }
        }
        Ok(vocabulary)
    }

    /// The languages, each with the beginnings of its words and their domains.
    pub(super) fn languages(&mut self) -> Result<Vec<Language>, ArtefactError> {
        let count = usize::from(self.u8("languages")?);
        if count == 0 || count > MOST_LANGUAGES {
            return Err(ArtefactError::Value {
                section: "languages",
                expected: "1 to 24 of them",
                received: count.to_string(),
            });
        }
        (0..count)
            .map(|_| {
                let length = usize::from(self.u8("languages")?);
                let name = text("languages", self.take("languages", length)?)?.to_owned();
                Ok(Language { name, beginnings: self.words("beginnings of words", Cursor::u16)? })
            })
            .collect()
    }

    /// Words, each with a set.
    pub(super) fn words<S>(
        &mut self,
        section: &'static str,
        set: impl Fn(&mut Self, &'static str) -> Result<S, ArtefactError>,
    ) -> Result<FxHashMap<Box<str>, S>, ArtefactError> {
        let mut words = FxHashMap::default();
        for _ in 0..self.u32(section)? {
            let length = usize::from(self.u8(section)?);
            let word = text(section, self.take(section, length)?)?;
            let sound =
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let set = set(self, section)?;
            if !sound || words.insert(Box::from(word), set).is_some() {
                return Err(ArtefactError::Value {
                    section,
                    expected: "distinct lower-case ASCII words",
                    received: format!("{word:?}"),
                });
            }
        }
        Ok(words)
    }

    /// Rows of whole numbers.
    pub(super) fn rows<const N: usize>(
        &mut self,
        section: &'static str,
        count: usize,
    ) -> Result<Vec<[i32; N]>, ArtefactError> {
        let row = |cursor: &mut Self| {
            let mut row = [0; N];
            for number in &mut row {
                *number = cursor.array(section).map(i32::from_le_bytes)?;
            }
            Ok(row)
        };
        (0..count).map(|_| row(self)).collect()
    }

    /// The rows of the calibration, whose points never fall.
    pub(super) fn calibration<const N: usize>(
        &mut self,
        rows: usize,
    ) -> Result<Vec<[u16; N]>, ArtefactError> {
        let row = |cursor: &mut Self| {
            let mut points = [0; N];
            for point in &mut points {
                *point = cursor.u16("calibration")?;
            }
            if points.is_sorted() && points.first() != Some(&0) {
                return Ok(points);
            }
            Err(ArtefactError::Value {
                section: "calibration",
                expected: "rising numbers above 0",
                received: format!("{points:?}"),
            })
        };
        (0..rows).map(|_| row(self)).collect()
    }
}
