//! The `lnsp` program.

fn main() {}
