//! Integration tests.

mod index;
