//! Texts to vectors: a synchronous port, and the libtorch models behind it.
//!
//! [`Tokenizer`] runs on any thread; an [`Encoder`] is built on the thread that keeps it, because libtorch holds
//! state per thread. A [`Parallelism`] of encoders shares one set of weights. [`plan::choose`] decides what goes into one
//! pass.
//!
//! ```text
//! model_files -> tokens      text -> Tokens
//!      |
//!      +-> weights -> network (bert, t5) -> head -> tch_encoder   Tokens -> vectors
//!                                                      |
//!                                                   calibrate     number format, product, budget: measured at the start
//!                                                      |
//!                                                   comparison    the device, where there are several
//! ```

mod architecture;
mod attention;
mod bert;
mod calibrate;
mod comparison;
mod device;
mod error;
mod head;
mod linear;
mod model_files;
mod modules;
mod network;
mod parallelism;
pub mod plan;
mod t5;
mod tch_encoder;
mod tokens;
mod torchscript;
mod weights;

pub use architecture::{Activation, Architecture, Family, T5Shape};
pub use calibrate::{Calibration, Candidate, Tuning};
pub use comparison::{Comparison, Rate, Settled, Trial, formats, rate, settle};
pub use device::{Device, DeviceChoice, Dtype, DtypeChoice};
pub use error::EncodeError;
pub use linear::LinearKind;
pub use model_files::{ModelFiles, locate};
pub use modules::{DenseActivation, DenseFiles, Pooling};
pub use parallelism::Parallelism;
pub use tch_encoder::{EncoderOptions, TchEncoder, load};
pub use tokens::{Tokenizer, Tokens};

use crate::model::ModelIdentity;
use std::sync::Arc;

/// A vector of unit length, or why this one text has none.
pub type Vector = Result<Arc<[f32]>, EncodeError>;

/// A model in memory. It stays on the thread it was built on.
pub trait Encoder {
    /// Which vectors it makes.
    fn identity(&self) -> &ModelIdentity;

    /// The length of its vectors.
    fn dims(&self) -> usize;

    /// Computes the vectors of some texts in one pass; answers in their order. What a pass may hold is the caller's
    /// choice ([`plan::choose`]).
    ///
    /// # Errors
    /// The outer error means that the pass failed and nothing is known about any single text. A text that cannot be
    /// encoded has its own error, and does not disturb its neighbours.
    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Vector>, EncodeError>;
}
