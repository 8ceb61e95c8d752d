//! The names of the stages, and the types of [`flow`] for chunks.

use crate::chunk::Chunk;
use crate::error_code::ErrorCode;
use crate::flow::{self, OldestTask};
use crate::outcome::Outcome;
use crate::rejection::Rejection;

/// A chunk's parcel, carrying the state `T` of the chunk.
pub type Parcel<T> = flow::Parcel<T, Chunk, Outcome>;
/// The way into a stage that takes `T`.
pub type Inlet<T> = flow::Inlet<T, Chunk, Outcome>;
/// What stays the same of a chunk's parcel from stage to stage.
pub type Delivery = flow::Delivery<Chunk, Outcome>;
/// The chunks that were dropped on the way.
pub type RedeliveryQueue = flow::RedeliveryQueue<Chunk, Outcome>;
/// The answer owed for one chunk.
pub type Receipt = flow::Receipt<Outcome>;

/// The answer of a receipt that is dropped unsettled, so that no path can forget to answer.
impl flow::Unsettled for Outcome {
    fn unsettled() -> Self {
        let message = "the service lost this chunk before it was stored; send it again";
        Outcome::Rejected(Rejection::new(ErrorCode::Lost, message))
    }
}

/// The three stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `TmdExtractor`: gives the codes.
    Tmd,
    /// `Embedder`: gives the vector.
    Embed,
    /// `Writer`: commits.
    Write,
}

impl Stage {
    /// In the order in which a chunk passes them.
    pub const ALL: [Stage; 3] = [Stage::Tmd, Stage::Embed, Stage::Write];

    /// The name in metrics, in `/health` and in dead letters.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tmd => "tmd",
            Stage::Embed => "embed",
            Stage::Write => "write",
        }
    }
}

/// What work waits for while its parcels move on.
pub(super) const ROOM: &str = "room in the next stage";

pub(super) const POSTGRES: &str = "PostgreSQL";

/// What the writer waits for before a transaction, when the index is behind.
pub(super) const INDEX_ROOM: &str = "room in the index";

/// Whether a task of the writer waits until the index has room.
pub fn waits_for_index(task: OldestTask) -> bool {
    task.waits_for == Some(INDEX_ROOM)
}
