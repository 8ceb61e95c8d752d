//! lnsp-ingest: text chunks come in over HTTP; each is classified, embedded, and committed to PostgreSQL with its
//! vector in an LMDB-backed index. It is searchable when it is acknowledged; overload slows the sender.
//!
//! ```text
//!   main / cli / doctor / app / config   composition: the only place that knows every concrete type
//!         |
//!       http                       knows Entrance, Search, Vectorizer, Receipt, Chunk; not the stages behind them
//!         |
//!    pipeline     search           pipeline names all stages, in order, in one function
//!         |       /
//!       stages   /                 TmdExtractor -> Embedder -> Writer; a stage never knows another
//!       /    \  /
//!  vectorizer |                    texts to vectors, by the encoder on its threads or by another server
//!      |      |
//!    ports   flow                  ports: llm, classifier, encoder, hub, store, index; flow: Inlet, Parcel, Receipt, Batch, Worker
//!       \    /
//!       wire                       the formats that HTTP and the command line share: DTOs, lines, encodings
//!         |
//!       domain                     outcome, chunk, rejection, error_code, tmd, model, quality: pure
//!    metrics, threads, endpoint        leaves: what is counted; worker threads and their progress; other servers
//!    simulated_llm                 another: a language model server to measure and test with; it imports nothing
//! ```
//!
//! Read [`pipeline`] first: its one function is the way of a chunk.
//!
//! Invariants, each with a test:
//! - A chunk's type changes at each stage, so nothing skips one.
//! - A parcel holds a slot from the first stage to its answer; what is in flight never exceeds the slots.
//! - A receipt answers exactly once, also when everything around it is dropped.
//! - Row and vector are one transaction; the index learns of them before the client does.
//! - Nothing imports upwards or sideways.

pub mod app;
pub mod chunk;
pub mod classifier;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod encoder;
pub mod endpoint;
pub mod error_code;
pub mod flow;
pub mod http;
pub mod hub;
pub mod index;
pub mod llm;
pub mod metrics;
pub mod model;
pub mod outcome;
pub mod pipeline;
pub mod quality;
pub mod rejection;
pub mod search;
pub mod simulated_llm;
pub mod stages;
pub mod store;
pub mod threads;
pub mod tmd;
pub mod vectorizer;
pub mod wire;
