//! The CPESH parts of an answer.

/// Why an answer with usable codes has no usable CPESH parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CpeshFailure {
    /// A part is absent, or is not of its type.
    Missing,
    /// A part says nothing.
    Blank,
    /// There are not exactly three soft and three hard negatives.
    Negatives,
    /// A part is longer than twice what was asked for.
    TooLong,
    /// A part repeats the prompt.
    Echo,
    /// A negative is the expected answer.
    Contradiction,
}

impl CpeshFailure {
    /// The name of the failure in rows and metrics, from a closed set.
    pub fn kind(self) -> &'static str {
        match self {
            CpeshFailure::Missing => "cpesh_missing",
            CpeshFailure::Blank => "cpesh_blank",
            CpeshFailure::Negatives => "cpesh_negatives",
            CpeshFailure::TooLong => "cpesh_too_long",
            CpeshFailure::Echo => "cpesh_echo",
            CpeshFailure::Contradiction => "cpesh_contradiction",
        }
    }
}
