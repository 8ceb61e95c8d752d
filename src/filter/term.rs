//! Terms: what a filter compares.

use std::fmt::Display;

/// The bits of a term. The others of a word are the place of a row where an index keeps both together.
pub const TERM_BITS: u32 = 54;

/// A field of a row that a filter can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TermField<'a> {
    /// The code of the domain.
    Domain,
    /// The code of the task.
    Task,
    /// The code of the modifier.
    Modifier,
    /// The name of the dataset.
    Dataset,
    /// The id of the document.
    Document,
    /// The source document that the client named.
    SourceDocument,
    /// A name on the first level of the metadata.
    Metadata(&'a str),
}

/// A value of a field, as a hash of [`TERM_BITS`]: equal values of one field are equal terms. Among a hundred million
/// different ones the chance that any two are equal is less than one in three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u64);

impl Term {
    /// The term of a value. It is the same in every version of the program: terms are stored.
    pub fn new(field: TermField<'_>, value: impl Display) -> Term {
        let (kind, name) = match field {
            TermField::Domain => (0, ""),
            TermField::Task => (1, ""),
            TermField::Modifier => (2, ""),
            TermField::Dataset => (3, ""),
            TermField::Document => (4, ""),
            TermField::SourceDocument => (5, ""),
            TermField::Metadata(name) => (6, name),
        };
        Term(hash_of([&[kind], name.as_bytes(), value.to_string().as_bytes()]) >> (u64::BITS - TERM_BITS))
    }

    /// The bits of a term that was stored.
    pub fn from_bits(bits: u64) -> Term {
        Term(bits & ((1 << TERM_BITS) - 1))
    }

    /// Its bits, the lower [`TERM_BITS`] of the word.
    pub fn bits(self) -> u64 {
        self.0
    }
}

/// The first word of blake3 over these parts, each after its length.
pub(super) fn hash_of<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_of_their_field_and_stay_the_same() {
        let terms = [
            Term::new(TermField::Domain, 3),
            Term::new(TermField::Task, 3),
            Term::new(TermField::Dataset, "3"),
            Term::new(TermField::Metadata("a"), "3"),
            Term::new(TermField::Metadata("a3"), ""),
        ];
        for (place, term) in terms.iter().enumerate() {
            assert!(terms.iter().skip(place + 1).all(|other| other != term), "{place}");
            assert_eq!(Term::from_bits(term.bits()), *term);
        }
        assert_eq!(terms[0], Term::new(TermField::Domain, 3_u8));
    }
}
