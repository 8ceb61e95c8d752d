//! Texts of a file, drawn so that each has the same chance.

use crate::input::{Input, InputError, InputOptions, ReadCount};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::io;
use std::path::Path;

/// The same file gives the same texts.
const SEED: u64 = 1;

/// Why no texts come from a file.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("{0}: {1}")]
    File(String, InputError),
    #[error("{0} cannot be read: {1}")]
    Read(String, io::Error),
    #[error("{0} has no chunk with a text")]
    Empty(String),
}

#[derive(Deserialize)]
struct WithText {
    text: String,
}

/// Up to `count` texts of the file, in the order of a reservoir: the file is read once, to its end.
pub fn texts(file: &Path, count: usize) -> Result<Vec<String>, SampleError> {
    let name = || file.display().to_string();
    let input = Input::inspect(file, &InputOptions::default());
    let input = input.map_err(|error| SampleError::File(name(), error))?;
    let failed = |error| SampleError::Read(name(), error);
    let mut reader = input.open(ReadCount::default()).map_err(failed)?;
    let mut dice = StdRng::seed_from_u64(SEED);
    let (mut chosen, mut seen) = (Vec::new(), 0_usize);
    while let Some(piece) = reader.next_piece().map_err(failed)? {
        for line in piece.lines.split(|byte| *byte == b'\n') {
            // Lines without a text would be refused by the service.
            let Ok(WithText { text }) = serde_json::from_slice(line) else { continue };
            if text.trim().is_empty() {
                continue;
            }
            seen += 1;
            if chosen.len() < count {
                chosen.push(text);
            } else {
                let place = dice.random_range(0..seen);
                if place < count {
                    chosen[place] = text;
                }
            }
        }
    }
    if chosen.is_empty() { Err(SampleError::Empty(name())) } else { Ok(chosen) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn every_text_has_the_same_chance_and_the_same_file_gives_the_same_texts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.ndjson");
        let mut lines = String::new();
        for n in 0..2_000 {
            writeln!(lines, "{{\"text\": \"number {n}\"}}").unwrap();
        }
        lines.push_str("{\"text\": \"  \"}\nno json\n");
        std::fs::write(&file, lines).unwrap();
        let chosen = texts(&file, 500).unwrap();
        assert_eq!((chosen.len(), &chosen), (500, &texts(&file, 500).unwrap()));
        let late = chosen.iter().filter(|text| text.len() == "number 1000".len()).count();
        assert!((200..300).contains(&late), "{late} of 500 are from the second half");
        assert_eq!(texts(&file, 5_000).unwrap().len(), 2_000);
        std::fs::write(&file, "{\"text\": \" \"}\n").unwrap();
        assert!(texts(&file, 5).unwrap_err().to_string().ends_with("has no chunk with a text"));
    }
}
