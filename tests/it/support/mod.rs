//! What the stories are told with: whole services in this process and beside it, databases, and scripted peers.

pub mod commit_cut_proxy;
pub mod database;
pub mod fake_hub;
pub mod gated_encoder;
pub mod llama_server;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod raw_connection;
pub mod readers;
pub mod scripted_embedder;
pub mod scripted_encoder;
pub mod scripted_http;
pub mod scripted_router;
pub mod scripted_service;
pub mod source;
pub mod tcp_server;
pub mod test_service;
pub mod wait;
pub mod wire;
