//! Where and in which number format the model computes: `LNSP_DEVICE` and `LNSP_DTYPE`.

use super::EncodeError;
use std::fmt;
use std::str::FromStr;

/// What `LNSP_DEVICE` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// Apple's GPU.
    Mps,
    /// One NVIDIA GPU, by its number.
    Cuda(usize),
}

const DEVICES: &str = "auto, cpu, mps or cuda:N (N a device number, such as cuda:0)";

impl DeviceChoice {
    /// The device, if this machine has it.
    ///
    /// # Errors
    /// [`EncodeError::InvalidSetting`] when a device that was asked for by name is not here.
    pub(super) fn open(self) -> Result<tch::Device, EncodeError> {
        let absent = |why: String| EncodeError::InvalidSetting {
            variable: "LNSP_DEVICE",
            received: self.to_string(),
            expected: format!("a device of this machine ({why}); use auto or cpu"),
        };
        let cuda_devices = || usize::try_from(tch::Cuda::device_count()).unwrap_or_default();
        match self {
            DeviceChoice::Cpu => Ok(tch::Device::Cpu),
            DeviceChoice::Auto if cuda_devices() > 0 => Ok(tch::Device::Cuda(0)),
            DeviceChoice::Auto => Ok(tch::Device::Cpu),
            DeviceChoice::Mps if tch::utils::has_mps() => Ok(tch::Device::Mps),
            DeviceChoice::Mps => Err(absent("its libtorch finds no Apple GPU".to_owned())),
            DeviceChoice::Cuda(number) => match cuda_devices() {
                count if number < count => Ok(tch::Device::Cuda(number)),
                count => Err(absent(format!("its libtorch finds {count} CUDA devices"))),
            },
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = EncodeError;

    fn from_str(value: &str) -> Result<Self, EncodeError> {
        let name = value.trim().to_ascii_lowercase();
        match (name.as_str(), name.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            ("mps", _) => Ok(DeviceChoice::Mps),
            ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(Ok(number))) => Ok(DeviceChoice::Cuda(number)),
            _ => Err(EncodeError::InvalidSetting {
                variable: "LNSP_DEVICE",
                received: value.to_owned(),
                expected: DEVICES.to_owned(),
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Mps => f.write_str("mps"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// What `LNSP_DTYPE` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// bf16 where the machine computes in it and was measured to be faster, else f32.
    #[default]
    Auto,
    /// This one.
    Only(Dtype),
}

impl FromStr for DtypeChoice {
    type Err = EncodeError;

    fn from_str(value: &str) -> Result<Self, EncodeError> {
        match value.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(DtypeChoice::Auto),
            "f32" => Ok(DtypeChoice::Only(Dtype::F32)),
            "bf16" => Ok(DtypeChoice::Only(Dtype::Bf16)),
            _ => Err(EncodeError::InvalidSetting {
                variable: "LNSP_DTYPE",
                received: value.to_owned(),
                expected: "auto, f32 or bf16".to_owned(),
            }),
        }
    }
}

impl fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DtypeChoice::Auto => f.write_str("auto"),
            DtypeChoice::Only(dtype) => dtype.fmt(f),
        }
    }
}

/// The number format of the matrix products. Sums, norms and vectors are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the range of f32.
    Bf16,
}

impl Dtype {
    pub(super) fn kind(self) -> tch::Kind {
        match self {
            Dtype::F32 => tch::Kind::Float,
            Dtype::Bf16 => tch::Kind::BFloat16,
        }
    }

    /// Whether this machine multiplies in this format itself. Where it does not, the result is the same but slower,
    /// and measuring it would only lengthen the start.
    pub(super) fn is_native(self, device: tch::Device) -> bool {
        match (self, device) {
            (Dtype::F32, _) | (Dtype::Bf16, tch::Device::Cuda(_)) => true,
            (Dtype::Bf16, tch::Device::Cpu) => processor_has_bf16(),
            (Dtype::Bf16, _) => false,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn processor_has_bf16() -> bool {
    // `amx_bf16` cannot be asked for on stable Rust; every processor that has it has this too.
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn processor_has_bf16() -> bool {
    // Also asked on stable Rust; Graviton 3 and later, Apple M2 and later.
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_has_bf16() -> bool {
    false
}
