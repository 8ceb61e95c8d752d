//! Integration tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod connections;
mod managed;
mod postgres;
mod store;
mod store_sql;
