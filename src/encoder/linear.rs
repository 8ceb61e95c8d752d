//! Matrix products, in the ways that libtorch has for them.
//!
//! Which one is the fastest depends on processor and number format, so it is measured at the start.

use super::architecture::Activation;
use super::error::Doing;
use super::{Dtype, EncodeError, torchscript};
use std::fmt;
use std::sync::Arc;
use tch::{CModule, Tensor};

/// Who computes matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// Whatever libtorch's `linear` chooses: for f32 on x86 that is MKL.
    Default,
    /// oneDNN, with the weights laid out for it once, and activation or residual added while a tile is in cache.
    Packed,
}

impl LinearKind {
    /// How many rows the matrices of a pass over so many tokens are given, zeros filling them up. oneDNN prepares its
    /// kernels anew for each number of rows it has not seen, which takes as long as the whole pass; few numbers are
    /// all seen after the warm-up. A tile of the processor has 16 rows, so up to there filling up costs nothing.
    pub(super) fn rows(self, tokens: i64) -> i64 {
        let step = if tokens <= FINE_ROWS { 16 } else { 64 };
        match self {
            LinearKind::Default => tokens,
            LinearKind::Packed => (tokens + step - 1) / step * step,
        }
    }
}

/// Up to so many rows their number grows in small steps.
const FINE_ROWS: i64 = 256;

impl fmt::Display for LinearKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinearKind::Default => "default",
            LinearKind::Packed => "packed",
        })
    }
}

/// oneDNN's fused operators, as TorchScript because ATen does not list them.
pub(super) struct FusedKernels(CModule);

const PROGRAM: &str = r#"class Program(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def pack(self: __torch__.Program, weight: Tensor) -> Tensor:
    return ops.mkldnn._reorder_linear_weight(weight, None)
  def linear(self: __torch__.Program, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, weight, bias, "none", annotate(List[Optional[number]], []), "")
  def linear_gelu(self: __torch__.Program, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", annotate(List[Optional[number]], []), "none")
  def linear_gelu_tanh(self: __torch__.Program, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", annotate(List[Optional[number]], []), "tanh")
  def linear_add(self: __torch__.Program, x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, other, weight, bias, "add")
"#;

impl FusedKernels {
    /// Fails on a libtorch that was built without oneDNN.
    pub(super) fn load() -> Result<Arc<Self>, EncodeError> {
        let archive = torchscript::archive(PROGRAM);
        let module = CModule::load_data(&mut archive.as_slice()).doing("loading the oneDNN operators")?;
        Ok(Arc::new(FusedKernels(module)))
    }

    fn call(&self, method: &str, arguments: &[&Tensor]) -> Result<Tensor, EncodeError> {
        self.0.method_ts(method, arguments).doing("multiplying matrices with oneDNN")
    }
}

/// A linear layer. Inputs are matrices, a token a row.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
    kernels: Option<Arc<FusedKernels>>,
}

impl Linear {
    /// With `kernels`, weights are packed for them.
    pub(super) fn new(
        (weight, bias): &(Tensor, Tensor),
        dtype: Dtype,
        kernels: Option<&Arc<FusedKernels>>,
    ) -> Result<Self, EncodeError> {
        let convert =
            |tensor: &Tensor| tensor.f_to_kind(dtype.kind()).and_then(|tensor| tensor.f_contiguous());
        let (weight, bias) =
            (convert(weight).doing("converting weights")?, convert(bias).doing("converting weights")?);
        let weight = match kernels {
            Some(kernels) => kernels.call("pack", &[&weight])?,
            None => weight,
        };
        Ok(Linear { weight, bias, kernels: kernels.cloned() })
    }

    /// The same weights, not copied.
    pub(super) fn twin(&self) -> Linear {
        Linear {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            kernels: self.kernels.clone(),
        }
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor, EncodeError> {
        match &self.kernels {
            Some(kernels) => kernels.call("linear", &[x, &self.weight, &self.bias]),
            None => x.f_linear(&self.weight, Some(&self.bias)).doing("multiplying matrices"),
        }
    }

    pub(super) fn apply_gelu(&self, x: &Tensor, activation: Activation) -> Result<Tensor, EncodeError> {
        match (&self.kernels, activation) {
            (Some(kernels), Activation::Gelu) => kernels.call("linear_gelu", &[x, &self.weight, &self.bias]),
            (Some(kernels), Activation::GeluTanh) => {
                kernels.call("linear_gelu_tanh", &[x, &self.weight, &self.bias])
            }
            (None, _) => self.apply(x)?.f_gelu_(activation.approximation()).doing("applying GELU"),
        }
    }

    /// The product plus `residual`.
    pub(super) fn apply_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, EncodeError> {
        match &self.kernels {
            Some(kernels) => kernels.call("linear_add", &[x, residual, &self.weight, &self.bias]),
            None => self.apply(x)?.f_add_(residual).doing("adding the residual"),
        }
    }
}
