//! All integration tests, in one binary, because libtorch links slowly. A module is a behaviour; each file reads
//! like a story. `house` builds a whole service in this process, `process` runs one as another, `postgres` gives
//! each test a database of its own.

mod classifier;
mod contract;
mod crash;
mod database;
mod encoder;
mod flow_of_chunks;
mod fresh;
mod healing;
mod house;
mod index;
mod postgres;
mod process;
mod rules;
mod start;
mod store;
mod wait;

/// The folder of the project.
fn root() -> std::path::PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}
