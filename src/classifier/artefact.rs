//! Reads the artefact. `scripts/build_classifier.py`, which writes it, documents the format.

use super::tokens::Vocabulary;
use crate::tmd::{Axis, CodeOutOfRange};

const MAGIC: [u8; 8] = *b"LNSPTMD\0";
const FORMAT: u32 = 1;

/// The labels of all axes together: the length of a row of votes.
pub(super) const LABELS: usize = 16 + 32 + 64;

/// Flag: the token continues a word ("##s" in WordPiece).
const CONTINUES: u8 = 1;
/// Flag: the token is an inflection without votes.
const SKIPPED: u8 = 2;

/// Why an artefact cannot be used. The remedy is always to build it again with `scripts/setup`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ArtefactError {
    /// The file is no artefact.
    #[error("not a classifier artefact: expected it to start with {expected:?}, received {received:?}")]
    Magic {
        /// The first bytes of every artefact.
        expected: [u8; 8],
        /// The first bytes of the file; fewer if the file is shorter.
        received: Vec<u8>,
    },
    /// The artefact was built for another version of this program.
    #[error("classifier artefact of another format: expected {expected}, received {received}")]
    Format {
        /// The format this program reads.
        expected: u32,
        /// The format of the file.
        received: u32,
    },
    /// The file was changed or truncated after it was written.
    #[error("damaged classifier artefact: expected checksum {expected:08x}, received {received:08x}")]
    Checksum {
        /// The checksum in the file.
        expected: u32,
        /// The computed checksum.
        received: u32,
    },
    /// A section is too short or too long, although the checksum is correct.
    #[error("malformed classifier artefact: expected {expected} bytes of {section}, received {received}")]
    Length {
        /// The section of the file.
        section: &'static str,
        /// The expected length in bytes.
        expected: usize,
        /// The actual length in bytes.
        received: usize,
    },
    /// The artefact was built for other lists of labels.
    #[error(
        "classifier artefact for other labels: expected {expected:?} of each axis, received {received:?}"
    )]
    Labels {
        /// The number of labels of domain, task and modifier in this program.
        expected: [usize; 3],
        /// The number of labels in the file.
        received: [usize; 3],
    },
    /// A section has an invalid value.
    #[error("malformed classifier artefact: expected {expected} in {section}, received {received}")]
    Value {
        /// The section of the file.
        section: &'static str,
        /// The valid values.
        expected: &'static str,
        /// The value in the file.
        received: String,
    },
    /// A code is out of the range of its axis.
    #[error(transparent)]
    Code(#[from] CodeOutOfRange),
}

/// A parsed artefact.
#[derive(Debug)]
pub(super) struct Artefact {
    pub(super) version: String,
    /// Per axis: the logit of one vote, before division by the square root of the number of words.
    pub(super) units: [f32; 3],
    pub(super) vocabulary: Vocabulary,
    votes: Vec<i8>,
}

impl Artefact {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if magic != MAGIC {
            return Err(ArtefactError::Magic { expected: MAGIC, received: magic.to_vec() });
        }
        let mut cursor = Cursor(&bytes[MAGIC.len()..]);
        // Checked before the checksum, because another format may place the checksum elsewhere.
        let format = cursor.u32("format")?;
        if format != FORMAT {
            return Err(ArtefactError::Format { expected: FORMAT, received: format });
        }
        cursor.check_against(bytes)?;

        let length = cursor.u32("version")? as usize;
        let version = text("version", cursor.take("version", length)?)?.to_owned();
        let expected = Axis::ALL.map(Axis::len);
        let received = [cursor.u16("labels")?, cursor.u16("labels")?, cursor.u16("labels")?].map(usize::from);
        if expected != received {
            return Err(ArtefactError::Labels { expected, received });
        }
        let units = [cursor.unit()?, cursor.unit()?, cursor.unit()?];
        let rows = cursor.u32("tokens")?;
        let vocabulary = cursor.vocabulary(rows)?;
        let size = rows as usize * LABELS;
        let votes = cursor.take("votes", size)?.iter().map(|vote| i8::from_le_bytes([*vote])).collect();
        if !cursor.0.is_empty() {
            return Err(ArtefactError::Length {
                section: "votes",
                expected: size,
                received: size + cursor.0.len(),
            });
        }
        Ok(Self { version, units, vocabulary, votes })
    }

    /// The votes of a row; `row` comes from the vocabulary and is in range.
    pub(super) fn row(&self, row: u32) -> &[i8] {
        let start = row as usize * LABELS;
        self.votes.get(start..start + LABELS).unwrap_or_default()
    }
}

fn text<'a>(section: &'static str, bytes: &'a [u8]) -> Result<&'a str, ArtefactError> {
    std::str::from_utf8(bytes).map_err(|_| ArtefactError::Value {
        section,
        expected: "UTF-8",
        received: format!("{bytes:?}"),
    })
}

/// The unread rest of the artefact.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, section: &'static str, length: usize) -> Result<&'a [u8], ArtefactError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ArtefactError::Length {
            section,
            expected: length,
            received: self.0.len(),
        })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, section: &'static str) -> Result<[u8; N], ArtefactError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(section, N)?);
        Ok(array)
    }

    fn u8(&mut self, section: &'static str) -> Result<u8, ArtefactError> {
        self.array(section).map(u8::from_le_bytes)
    }

    fn u16(&mut self, section: &'static str) -> Result<u16, ArtefactError> {
        self.array(section).map(u16::from_le_bytes)
    }

    fn u32(&mut self, section: &'static str) -> Result<u32, ArtefactError> {
        self.array(section).map(u32::from_le_bytes)
    }

    /// A positive logit per vote. With NaN or a negative value the winner would get the lowest confidence.
    fn unit(&mut self) -> Result<f32, ArtefactError> {
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
    fn check_against(&mut self, bytes: &[u8]) -> Result<(), ArtefactError> {
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

    fn vocabulary(&mut self, rows: u32) -> Result<Vocabulary, ArtefactError> {
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
}
