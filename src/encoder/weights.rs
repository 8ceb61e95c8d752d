//! The tensors of the safetensors files, each checked against what the configuration promises
//! when it is asked for.

use super::EncodeError;
use super::error::Doing;
use super::linear::LinearWeights;
use std::collections::HashMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// The weights on their way from the files into a model.
pub(super) struct Weights {
    tensors: HashMap<String, Tensor>,
    /// Stands before all names.
    prefix: &'static str,
    device: Device,
}

impl Weights {
    /// `head` stands before the names in files of models that were saved with a head on top.
    pub(super) fn read(paths: &[PathBuf], head: &'static str, device: Device) -> Result<Self, EncodeError> {
        let mut tensors = HashMap::new();
        for path in paths {
            let read = Tensor::read_safetensors(path).map_err(|error| {
                EncodeError::bad_file(
                    path,
                    format!("not a readable safetensors file ({error}); fetch it again"),
                )
            })?;
            tensors.extend(read);
        }
        let headed = !head.is_empty() && tensors.keys().any(|name| name.starts_with(head));
        let prefix = if headed { head } else { "" };
        Ok(Weights { tensors, prefix, device })
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("{}{name}", self.prefix))
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
    pub(super) fn linear(&self, name: &str, out: i64, input: i64) -> Result<LinearWeights, EncodeError> {
        let weights = self.without_bias(name, out, input)?;
        Ok(LinearWeights { bias: Some(self.get(&format!("{name}.bias"), &[out])?), ..weights })
    }

    /// A linear layer that has a weight only.
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
