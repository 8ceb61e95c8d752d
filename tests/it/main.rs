//! All integration tests, in one binary, because libtorch links slowly. Each module is a behaviour and reads like a
//! story. In `support`, `test_service` builds a whole service in this process, `process` runs one as another process,
//! and `database` gives each test a database of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test prints its figures")]

mod accesses;
mod admission;
mod answer_cache;
mod backup;
mod bench;
mod blame;
mod body_formats;
mod broken_models;
mod classifier;
mod clocks;
mod connections;
mod contract;
mod cpesh;
mod cpesh_afterwards;
mod cpesh_llm;
mod crash;
mod dead_letters;
mod decision_order;
mod deletions;
mod doctor;
mod doctor_llm;
mod documents;
mod drain;
mod embed_api;
mod embedding_pool;
mod encoder;
mod encoder_parallelism;
mod encoder_plan;
mod export;
mod export_files;
mod failover;
mod flow_of_chunks;
mod foreign_database;
mod framework;
mod fresh;
mod frozen_writers;
mod fuzz;
mod gauges;
mod healing;
mod hostile;
mod hostile_output;
mod hub;
mod hub_command;
mod idempotency;
mod identity;
mod index;
mod ingest_client;
mod ingest_files;
mod ingest_terminal;
mod keyword_search;
mod labels;
mod layers;
mod llama_server;
mod llm;
mod llm_deadline;
mod llm_dialects;
mod llm_faults;
mod llm_injections;
mod llm_pool;
mod lost_commits;
mod malformed_lines;
mod managed;
mod mutations;
mod named_deletions;
mod nightly_import;
mod old_database;
mod ollama_script;
mod other_model;
mod parity;
mod poisonous_texts;
mod poolers;
mod private_files;
mod question_search;
mod reading;
mod refused_keys;
mod remote_embedder;
mod replacements;
mod retag;
mod router_api;
mod router_source;
mod routes;
mod rows_without_codes;
mod rules;
mod same_key;
mod search_api;
mod search_command;
mod second_model;
mod shapes;
mod silent_database;
mod simulated_apis;
mod simulated_llm;
mod sql_changes;
mod start;
mod stats;
mod store;
mod store_sql;
mod streams;
mod support;
mod unread;
mod verify_index;
mod watchdog;

/// The folder of the project.
fn root() -> std::path::PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}
