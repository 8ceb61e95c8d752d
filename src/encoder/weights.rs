//! The tensors of the safetensors files, each checked against what the configuration promises
//! when it is asked for.

use super::error::Doing;
use super::{EncodeError, ModelFiles};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// The weights on their way from the files into a model.
pub(super) struct Weights {
    tensors: HashMap<String, Tensor>,
    /// Models saved with a head on top have their names below `bert.`.
    prefix: &'static str,
    device: Device,
}

impl Weights {
    pub(super) fn read(files: &ModelFiles, device: Device) -> Result<Self, EncodeError> {
        let mut tensors = HashMap::new();
        for path in &files.weights {
            let read = Tensor::read_safetensors(path).map_err(|error| {
                EncodeError::bad_file(
                    path,
                    format!("not a readable safetensors file ({error}); fetch it again"),
                )
            })?;
            tensors.extend(read);
        }
        let prefix = if tensors.keys().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
        Ok(Weights { tensors, prefix, device })
    }

    /// The tensor as f32 on the device.
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

    /// The first row of a table with any number of rows.
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

    /// Weight and bias of a linear layer.
    pub(super) fn linear(&self, name: &str, out: i64, input: i64) -> Result<(Tensor, Tensor), EncodeError> {
        Ok((self.get(&format!("{name}.weight"), &[out, input])?, self.get(&format!("{name}.bias"), &[out])?))
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
