//! Why a file cannot be taken, with the way in which it can.

use std::io;

/// Each message is the end of a sentence that begins with the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system cannot read it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no file of chunks. In a folder it is passed over.
    #[error("{0}")]
    Unknown(String),
    /// It is a file of chunks, and something about it or about the flags has to be changed.
    #[error("{0}")]
    Unusable(String),
}

/// An error of a file whose kind is known, as it is met while the file is read.
pub fn damaged(sentence: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence.into())
}

/// Names in backquotes, with commas; those beyond a dozen are counted.
pub fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<&str> = names.collect();
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name:.60}`")).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}
