//! lnsp-ingest: text chunks come in over HTTP. Each is classified, embedded, and committed to PostgreSQL, with its
//! vector in an index on LMDB. A chunk is searchable when it is acknowledged; overload slows its sender down.
//!
//! ```text
//!   main, cli, doctor, app, config    composition: the only rooms that know every concrete type
//!         |
//!       http                          knows pipeline, search, vectorizer and wire; not the stages
//!       /   \
//!    pipeline  search, deletion,      pipeline builds all stages, in order, in one function
//!       |     / backfill, access       backfill: codes and CPESH parts for chunks that are stored; access: counts reads
//!     stages /                        TmdExtractor -> Embedder -> Writer; a stage never knows another
//!     /   | /
//!    / vectorizer                     texts to vectors: an encoder on its threads, or another server
//!   |     |
//!   ports   server_pool               ports: llm, classifier, encoder, hub, router, store, index; server_pool: which
//!   |     |                           server is asked, by llm and vectorizer
//!   |     flow                        inlet, parcel, retry
//!    \     /
//!      wire, input, export            wire: the formats that HTTP and the command line share: DTOs, lines, encodings;
//!       |                             input: files as people have them, as chunks; export: files for other programs
//!       |
//!     domain                          outcome, chunk, rejection, error_code, filter, keyword, tmd, model, quality:
//!                                     pure
//!
//!   leaves: memory, metrics, threads, endpoint (other servers), allowed_host (of this one), files (private ones),
//!           lmdb (environments), answer_cache (bytes by key), output (terminal and log)
//!   simulated_llm: a language model server for measurements and tests
//! ```
//!
//! Start with [`pipeline`]: `Generation::build` is the way of a chunk.
//!
//! Invariants, each with a test:
//! - A chunk's type changes at each stage, so no chunk skips one.
//! - A parcel holds a slot from the first stage to its answer, so the chunks in flight never exceed the slots.
//! - A receipt answers exactly once, also when everything around it is dropped.
//! - Row and vector are one transaction, and the index learns of them before the client does.
//! - No room imports from a room above or beside it.
//!
//! Glossary:
//!
//! | word | meaning |
//! |---|---|
//! | chunk | a text with its metadata, the unit of ingest; a document is sent as many chunks |
//! | key | dataset and id of a chunk: unique in the store |
//! | TMD | the codes of a chunk: its Domain, Task and Modifier |
//! | outcome | the answer to one chunk: stored, duplicate, or rejected with a cause |
//! | receipt | the promise of one outcome; dropped unsettled, it answers "lost" |
//! | entrance | the way into the pipeline: claims the key, looks it up, waits for a slot |
//! | in flight | accepted and not yet answered; later chunks with its key are followers of this chunk, their leader |
//! | slot | permission to hold one chunk in a stage, with the bytes of that chunk |
//! | stage | an actor with one step of the work: [`stages::TmdExtractor`], [`stages::Embedder`], [`stages::Writer`] |
//! | inlet | the only way into a stage: waits for a slot |
//! | delivery | what stays the same of a chunk on its way: origin, receipt, span, delivery attempts |
//! | parcel | a delivery with its cargo, whose type changes, and its slot |
//! | batch | the chunks that gathered while a stage was busy: one forward pass, one transaction |
//! | generation | all stages from a start to the death of one of them; the supervisor then builds the next |
//! | redelivery queue | the deliveries that a dead generation dropped; they are delivered again |
//! | suspect, poison | a chunk on which a stage worked when it died; after three such deaths: poison, and rejected |
//! | dead letter | the row about a chunk that was rejected for a failure of the service |
//! | progress | the record of what a thread or task is doing, from which the watchdog finds stalls |
//! | seq | the number of a committed change: the clock of the store, which the index follows |
//! | volume, delta | the index on disk, and the rows in memory that are committed but not yet built into it |
//! | model in use | the embedding model whose vectors are written and searched; a store may have those of others beside |
//! | vectorizer | the source of vectors: the encoder of this process or an embedding server |

pub mod access;
pub mod allowed_host;
pub mod answer_cache;
pub mod app;
pub mod backfill;
pub mod chunk;
pub mod classifier;
pub mod cli;
pub mod config;
pub mod deletion;
pub mod doctor;
pub mod encoder;
pub mod endpoint;
pub mod error_code;
pub mod export;
pub mod files;
pub mod filter;
pub mod flow;
pub mod http;
pub mod hub;
pub mod index;
pub mod input;
pub mod keyword;
pub mod llm;
pub mod lmdb;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod outcome;
pub mod output;
pub mod pipeline;
pub mod quality;
pub mod rejection;
pub mod router;
pub mod search;
pub mod server_pool;
pub mod simulated_llm;
pub mod stages;
pub mod store;
pub mod threads;
pub mod tmd;
pub mod vectorizer;
pub mod wire;
