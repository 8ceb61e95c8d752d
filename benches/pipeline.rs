//! Figures of the pipeline.

fn main() {}
