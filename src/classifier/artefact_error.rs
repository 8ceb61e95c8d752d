//! Why an artefact is refused.

use crate::tmd::CodeOutOfRange;

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
