//! The tensors of safetensors files. The shape of each is checked against the configuration when it is read.

use super::error::{Doing, EncodeError, beginning};
use super::linear::LinearWeights;
use crate::threads::catch_panic;
use std::collections::HashMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// All tensors of a model, by name, before the network is built.
pub(super) struct Weights {
    tensors: HashMap<String, Tensor>,
    /// The prefix of all names in the files.
    prefix: &'static str,
    device: Device,
}

impl Weights {
    /// Reads all files. `head` is the prefix of names in models that were saved with a task head.
    pub(super) fn read(paths: &[PathBuf], head: &'static str, device: Device) -> Result<Self, EncodeError> {
        let mut tensors = HashMap::new();
        for path in paths {
            let read = catch_panic(|| Tensor::read_safetensors(path).map_err(|error| error.to_string()));
            let read = read.and_then(|read| read).map_err(|error| {
                let reason = beginning(&error);
                EncodeError::bad_file(
                    path,
                    format!("not a readable safetensors file ({reason}); fetch it again"),
                )
            })?;
            tensors.extend(read);
        }
        let headed = !head.is_empty() && tensors.keys().any(|name| name.starts_with(head));
        let prefix = if headed { head } else { "" };
        Ok(Weights { tensors, prefix, device })
    }

    /// Whether a tensor with this name exists.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("{}{name}", self.prefix))
    }

    /// The tensor as f32 on the device; its shape must be `shape`.
    pub(super) fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor, EncodeError> {
        let found = self.find(name)?;
        if found.size() != shape {
            return Err(self.mismatch(
                name,
                &format!("shape {shape:?}"),
                format!("shape {:?}", found.size()),
            ));
        }
        self.to_f32(found)
    }

    /// The first row, `[width]`, of a table `[any, width]`.
    pub(super) fn first_row(&self, name: &str, width: i64) -> Result<Tensor, EncodeError> {
        let found = self.find(name)?;
        match found.size()[..] {
            [rows, found_width] if rows > 0 && found_width == width => {
                self.to_f32(&found.f_get(0).doing("reading weights")?)
            }
            ref other => {
                Err(self.mismatch(name, &format!("shape [any, {width}]"), format!("shape {other:?}")))
            }
        }
    }

    /// The weight `[out, input]` and bias `[out]` of a linear layer.
    pub(super) fn linear(&self, name: &str, out: i64, input: i64) -> Result<LinearWeights, EncodeError> {
        let weights = self.without_bias(name, out, input)?;
        Ok(LinearWeights { bias: Some(self.get(&format!("{name}.bias"), &[out])?), ..weights })
    }

    /// The weight `[out, input]` of a linear layer without bias.
    pub(super) fn without_bias(
        &self,
        name: &str,
        out: i64,
        input: i64,
    ) -> Result<LinearWeights, EncodeError> {
        Ok(LinearWeights { weight: self.get(&format!("{name}.weight"), &[out, input])?, bias: None })
    }

    fn find(&self, name: &str) -> Result<&Tensor, EncodeError> {
        let full_name = format!("{}{name}", self.prefix);
        self.tensors.get(&full_name).ok_or_else(|| self.mismatch(name, "a tensor", "none".to_owned()))
    }

    fn to_f32(&self, tensor: &Tensor) -> Result<Tensor, EncodeError> {
        tensor
            .f_to_device(self.device)
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .doing("reading weights")
    }

    fn mismatch(&self, name: &str, expected: &str, received: String) -> EncodeError {
        EncodeError::WeightMismatch {
            tensor: format!("{}{name}", self.prefix),
            expected: expected.to_owned(),
            received,
        }
    }
}
