//! Integration tests: one binary, because libtorch links once. A module per behaviour.

mod encoder;
mod encoder_plan;
