//! Texts to vectors: a synchronous port, and the libtorch models behind it.
//!
//! A [`Tokenizer`] runs on any thread. An [`Encoder`] is built on the thread that runs it, because libtorch holds state
//! per thread. [`Parallelism`] says how many encoders share one set of weights. [`plan::choose`] selects the texts of
//! one pass.
//!
//! ```text
//! model_files -> tokens      text -> Tokens
//!      |
//!      +-> weights -> network (bert, t5) -> head -> tch_encoder   Tokens -> vectors
//!                                                      |
//!                                                   calibrate     format, matrix product, budget: measured at startup
//!                                                      |
//!                                                   comparison    the fastest of several devices
//! ```

mod architecture;
mod attention;
mod bert;
mod calibrate;
mod charsmap;
mod comparison;
mod device;
mod error;
mod head;
mod json_file;
mod kernel_caches;
mod linear;
mod model_files;
mod modules;
mod network;
mod parallelism;
pub mod plan;
mod port;
mod t5;
mod tch_encoder;
mod tokens;
mod torchscript;
mod unread;
mod weights;

pub use architecture::{Activation, Architecture, Family, T5Shape};
pub use calibrate::{Calibration, Candidate, Tuning};
pub use comparison::{Comparison, Rate, Settled, Trial, formats, rate, settle};
pub use device::{Device, DeviceChoice, Dtype, DtypeChoice};
pub use error::EncodeError;
pub use kernel_caches::bound_kernel_caches;
pub use linear::LinearKind;
pub use model_files::{ModelFiles, locate};
pub use modules::{DenseActivation, DenseFiles, Pooling};
pub use parallelism::Parallelism;
pub use port::{Encoder, Vector, length};
pub use tch_encoder::{EncoderOptions, TchEncoder, load, try_out};
pub use tokens::{Tokenizer, Tokens};
