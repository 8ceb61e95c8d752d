//! Reads the artefact. `scripts/build_classifier.py`, which writes it, documents the format.

use super::artefact_error::ArtefactError;
use super::kind::{KINDS, TextKind};
use super::language::{Language, Reach};
use super::sections::{Cursor, text};
use super::tokens::Vocabulary;
use crate::tmd::Axis;
use rustc_hash::FxHashMap;

const MAGIC: [u8; 8] = *b"LNSPTMD\0";
const FORMAT: u32 = 2;

/// The labels of all axes together: the length of a row of votes.
pub(super) const LABELS: usize = 16 + 32 + 64;

/// A parsed artefact.
#[derive(Debug)]
pub(super) struct Artefact {
    pub(super) version: String,
    /// Per axis: the logit of one vote, before division by the square root of the number of words.
    pub(super) units: [f32; 3],
    pub(super) vocabulary: Vocabulary,
    votes: Vec<i8>,
    /// The known languages, English first.
    pub(super) languages: Vec<Language>,
    /// What a word tells: bit n for a function word of language n, then the markers.
    telling: FxHashMap<Box<str>, u32>,
    /// In votes: what each kind of text adds to the tasks.
    tasks: Vec<[i32; 32]>,
    /// And to the modifiers.
    modifiers: Vec<[i32; 64]>,
    /// What each domain adds to the modifiers.
    subjects: Vec<[i32; 64]>,
    /// By tenths of what the votes claim: the confidence, of 65535.
    calibration: Vec<[u16; STEPS]>,
}

/// The rows of the calibration: of the domain by reach, of task and modifier by reach and kind, and of both for other
/// languages.
const ROWS: usize = 3 + 2 * 2 * KINDS + 2;

/// The points of a calibration: at 0, 0.1, .. 1.
const STEPS: usize = 11;

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
        let languages = cursor.languages()?;
        let telling = cursor.words("telling words", Cursor::u32)?;
        let tasks = cursor.rows("tasks of kinds", KINDS)?;
        let modifiers = cursor.rows("modifiers of kinds", KINDS)?;
        let subjects = cursor.rows("modifiers of domains", Axis::Domain.len())?;
        let calibration = cursor.calibration(ROWS)?;
        if !cursor.0.is_empty() {
            return Err(ArtefactError::Length {
                section: "calibration",
                expected: size_of_val(&*calibration),
                received: size_of_val(&*calibration) + cursor.0.len(),
            });
        }
        Ok(Self {
            version,
            units,
            vocabulary,
            votes,
            languages,
            telling,
            tasks,
            modifiers,
            subjects,
            calibration,
        })
    }

    /// What a word tells: see [`super::language::Signs::count`].
    pub(super) fn tells(&self, word: &str) -> u32 {
        self.telling.get(word).copied().unwrap_or_default()
    }

    /// What a kind of text and its domain add to the votes for tasks and modifiers.
    pub(super) fn priors(&self, kind: TextKind, domain: u8) -> ([i32; 32], [i32; 64]) {
        let tasks = self.tasks.get(kind as usize).copied().unwrap_or([0; 32]);
        let mut modifiers = self.modifiers.get(kind as usize).copied().unwrap_or([0; 64]);
        for (sum, more) in
            modifiers.iter_mut().zip(self.subjects.get(usize::from(domain)).into_iter().flatten())
        {
            *sum += more;
        }
        (tasks, modifiers)
    }

    /// The confidence where the votes claim this probability of an axis.
    pub(super) fn calibrated(&self, reach: Reach, kind: TextKind, axis: Axis, claim: f32) -> f32 {
        let by_kind = |axis: usize, reach: usize| 3 + (axis * 2 + reach) * KINDS + kind as usize;
        let row = match (axis, reach) {
            (Axis::Domain, Reach::English) => 0,
            (Axis::Domain, Reach::Listed(_)) => 1,
            (Axis::Domain, Reach::Other) => 2,
            (Axis::Task, Reach::English) => by_kind(0, 0),
            (Axis::Task, Reach::Listed(_)) => by_kind(0, 1),
            (Axis::Modifier, Reach::English) => by_kind(1, 0),
            (Axis::Modifier, Reach::Listed(_)) => by_kind(1, 1),
            (Axis::Task, Reach::Other) => ROWS - 2,
            (Axis::Modifier, Reach::Other) => ROWS - 1,
        };
        let points = self.calibration.get(row).copied().unwrap_or([1; STEPS]);
        let place = claim.clamp(0.0, 1.0) * (STEPS - 1) as f32;
        let below = (place as usize).min(STEPS - 2);
        let [low, high] = [points[below], points[below + 1]].map(|point| f32::from(point) / 65_535.0);
        low + (high - low) * (place - below as f32)
    }

    /// The votes of a row; `row` comes from the vocabulary and is in range.
    pub(super) fn row(&self, row: u32) -> &[i8] {
        let start = row as usize * LABELS;
        self.votes.get(start..start + LABELS).unwrap_or_default()
    }
}
