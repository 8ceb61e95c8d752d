//! Linear layers, with the implementations of matrix products that libtorch offers.
//!
//! The fastest one depends on CPU and number format, so it is measured at startup.

use super::architecture::Activation;
use super::device::Dtype;
use super::error::Doing;
use super::error::EncodeError;
use super::torchscript;
use std::fmt;
use std::sync::Arc;
use tch::{CModule, Tensor};

/// The implementation of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// The choice of libtorch's `linear`: MKL for f32 on x86.
    Default,
    /// oneDNN, with weights packed once, and activation or residual fused into the product.
    Packed,
}

impl LinearKind {
    /// The number of rows to which a matrix of `tokens` rows is padded with zeros. oneDNN compiles kernels for each new
    /// number of rows, which takes as long as a whole pass. With few distinct numbers, the warm-up covers all of them.
    /// A hardware tile has 16 rows, so padding to a multiple of 16 costs nothing.
    pub(super) fn rows(self, tokens: i64) -> i64 {
        let step = if tokens <= FINE_ROWS { 16 } else { 64 };
        match self {
            LinearKind::Default => tokens,
            LinearKind::Packed => (tokens + step - 1) / step * step,
        }
    }
}

/// Up to this number, rows are padded to a multiple of 16, above it to a multiple of 64.
const FINE_ROWS: i64 = 256;

impl fmt::Display for LinearKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinearKind::Default => "default",
            LinearKind::Packed => "packed",
        })
    }
}

/// oneDNN's fused operators, called through TorchScript because ATen does not export them.
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
  def linear_relu(self: __torch__.Program, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, weight, bias, "relu", annotate(List[Optional[number]], []), "")
  def linear_mul(self: __torch__.Program, x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, other, weight, bias, "mul")
  def linear_add(self: __torch__.Program, x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mkldnn._linear_pointwise(x, other, weight, bias, "add")
"#;

impl FusedKernels {
    /// Compiles the TorchScript program; fails if libtorch was built without oneDNN.
    pub(super) fn load() -> Result<Arc<Self>, EncodeError> {
        let archive = torchscript::archive(PROGRAM);
        let module = CModule::load_data(&mut archive.as_slice()).doing("loading the oneDNN operators")?;
        Ok(Arc::new(FusedKernels(module)))
    }

    fn call(&self, method: &str, arguments: &[&Tensor]) -> Result<Tensor, EncodeError> {
        self.0.method_ts(method, arguments).doing("multiplying matrices with oneDNN")
    }
}

/// The weights of a linear layer in f32: `[out, in]`, and a bias `[out]` if the layer has one.
pub(super) struct LinearWeights {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl LinearWeights {
    /// Concatenates layers with the same input into one; the output is the concatenation of their outputs.
    pub(super) fn joined(parts: [LinearWeights; 3]) -> Result<LinearWeights, EncodeError> {
        let join = |parts: &[&Tensor]| Tensor::f_cat(parts, 0).doing("joining weights");
        let weight = join(&parts.each_ref().map(|part| &part.weight))?;
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let bias = if biases.len() == parts.len() { Some(join(&biases)?) } else { None };
        Ok(LinearWeights { weight, bias })
    }

    /// A layer whose output is multiplied by `factor`.
    pub(super) fn scaled(self, factor: f64) -> Result<LinearWeights, EncodeError> {
        let scale = |tensor: Tensor| tensor.f_mul_scalar(factor).doing("scaling weights");
        Ok(LinearWeights { weight: scale(self.weight)?, bias: self.bias.map(scale).transpose()? })
    }

    /// A layer whose input is first multiplied by `factors`, `[in]`, element by element.
    pub(super) fn after(self, factors: &Tensor) -> Result<LinearWeights, EncodeError> {
        Ok(LinearWeights { weight: self.weight.f_mul(factors).doing("scaling weights")?, ..self })
    }
}

/// A linear layer. Inputs are matrices with one row per token.
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// oneDNN's operators and the bias they require; zeros for a layer without one.
    kernels: Option<(Arc<FusedKernels>, Tensor)>,
}

impl Linear {
    /// Converts the weights to `dtype`, and packs them for `kernels` if given.
    pub(super) fn new(
        LinearWeights { weight, bias }: &LinearWeights,
        dtype: Dtype,
        kernels: Option<&Arc<FusedKernels>>,
    ) -> Result<Self, EncodeError> {
        let convert = |tensor: &Tensor| {
            tensor
                .f_to_kind(dtype.kind())
                .and_then(|tensor| tensor.f_contiguous())
                .doing("converting weights")
        };
        let width = weight.size2().doing("reading weights")?.0;
        let (weight, bias) = (convert(weight)?, bias.as_ref().map(convert).transpose()?);
        let Some(kernels) = kernels else { return Ok(Linear { weight, bias, kernels: None }) };
        let weight = kernels.call("pack", &[&weight])?;
        let zeros = || Tensor::f_zeros([width], (dtype.kind(), weight.device())).doing("converting weights");
        let packed_bias = bias.map_or_else(zeros, Ok)?;
        Ok(Linear { weight, bias: None, kernels: Some((kernels.clone(), packed_bias)) })
    }

    /// A layer with the same weights in memory.
    pub(super) fn share_weights(&self) -> Linear {
        let kernels = self.kernels.as_ref().map(|(kernels, bias)| (kernels.clone(), bias.shallow_clone()));
        Linear {
            weight: self.weight.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            kernels,
        }
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor, EncodeError> {
        match &self.kernels {
            Some((kernels, bias)) => kernels.call("linear", &[x, &self.weight, bias]),
            None => x.f_linear(&self.weight, self.bias.as_ref()).doing("multiplying matrices"),
        }
    }

    /// The product, followed by the activation.
    pub(super) fn apply_then(&self, x: &Tensor, activation: Activation) -> Result<Tensor, EncodeError> {
        let Some((kernels, bias)) = &self.kernels else {
            let mut product = self.apply(x)?;
            return match activation {
                Activation::Gelu => product.f_gelu_("none"),
                Activation::GeluTanh => product.f_gelu_("tanh"),
                Activation::Relu => product.f_relu_(),
            }
            .doing("applying the activation");
        };
        let method = match activation {
            Activation::Gelu => "linear_gelu",
            Activation::GeluTanh => "linear_gelu_tanh",
            Activation::Relu => "linear_relu",
        };
        kernels.call(method, &[x, &self.weight, bias])
    }

    /// The product plus `residual`.
    pub(super) fn apply_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, EncodeError> {
        match &self.kernels {
            Some((kernels, bias)) => kernels.call("linear_add", &[x, residual, &self.weight, bias]),
            None => self.apply(x)?.f_add_(residual).doing("adding the residual"),
        }
    }

    /// The product times `gate`, element by element.
    pub(super) fn apply_mul(&self, x: &Tensor, gate: &Tensor) -> Result<Tensor, EncodeError> {
        match &self.kernels {
            Some((kernels, bias)) => kernels.call("linear_mul", &[x, gate, &self.weight, bias]),
            None => self.apply(x)?.f_mul_(gate).doing("multiplying with the gate"),
        }
    }
}
