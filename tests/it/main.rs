//! Integration tests.

mod postgres;
mod store;
