//! The three stage actors, in the order in which a chunk passes them: [`TmdExtractor`], [`Embedder`], [`Writer`].
//!
//! A stage knows the message it takes, the inlet it pushes to, and its ports; never another stage. Each holds an
//! [`ExitGuard`], which reports its death to the supervisor, whatever the cause.

mod context;
mod dead_letters;
mod embed_ahead;
mod embedder;
mod fault_hook;
mod known;
mod labeller;
mod llm_wait;
mod stage;
mod tagger;
mod tmd_extractor;
mod writer;

pub use context::{Died, ExitGuard, StageContext};
pub use dead_letters::{DeadLetterQueue, PendingDeadLetter, dead_letter_queue};
pub use embed_ahead::EmbedAhead;
pub use embedder::Embedder;
pub use fault_hook::{FaultHook, NoFaults};
pub use known::{KnownVerdict, compare};
pub use labeller::{Labelled, Labeller};
pub use llm_wait::LlmWait;
pub use stage::{Delivery, Inlet, Parcel, Receipt, RedeliveryQueue, Stage, waits_for_index};
pub use tagger::{CodeSource, LlmFallback, LocalFirst, Tagger};
pub use tmd_extractor::{NeedsLlm, NeedsNoLlm, TmdExtractor};
pub use writer::{WriteTools, Writer};
