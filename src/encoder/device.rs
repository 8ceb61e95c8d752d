//! The device and the number format of the computation: `LNSP_DEVICE` and `LNSP_DTYPE`.

use super::error::EncodeError;
use std::fmt;
use std::str::FromStr;
use tch::{TchError, Tensor};

/// A device that libtorch can compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU, with all its cores.
    Cpu,
    /// Apple's GPU (Metal Performance Shaders).
    Mps,
    /// One NVIDIA GPU, by its number.
    Cuda(usize),
}

impl Device {
    /// The devices that libtorch finds on this machine; the CPU comes first.
    pub fn all() -> Vec<Device> {
        let cuda = usize::try_from(tch::Cuda::device_count()).unwrap_or_default();
        let mps = tch::utils::has_mps().then_some(Device::Mps);
        [Device::Cpu].into_iter().chain(mps).chain((0..cuda).map(Device::Cuda)).collect()
    }

    pub(super) fn torch(self) -> tch::Device {
        match self {
            Device::Cpu => tch::Device::Cpu,
            Device::Mps => tch::Device::Mps,
            Device::Cuda(number) => tch::Device::Cuda(number),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Mps => f.write_str("mps"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Copies a tensor to the device. The copy to an NVIDIA GPU is asynchronous from pinned memory: the operations of the
/// pass are queued after it. libtorch keeps the pinned memory until the copy is done.
pub(super) fn to_device(tensor: &Tensor, device: tch::Device) -> Result<Tensor, TchError> {
    match device {
        tch::Device::Cuda(_) => {
            let pinned = tensor.f_pin_memory(device)?;
            pinned.f_to_device_(device, tensor.f_kind()?, true, false)
        }
        _ => tensor.f_to_device(device),
    }
}

/// The value of `LNSP_DEVICE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The fastest device, by measurement.
    #[default]
    Auto,
    /// The named device.
    Only(Device),
}

const DEVICES: &str = "auto, cpu, mps or cuda:N (N a device number, such as cuda:0)";

impl DeviceChoice {
    /// The candidates among which the fastest is selected; at least one. Only the first GPU is a candidate, because the
    /// GPUs of a machine are usually equal; others can be named.
    ///
    /// # Errors
    /// [`EncodeError::InvalidSetting`] if the named device does not exist.
    pub fn devices(self) -> Result<Vec<Device>, EncodeError> {
        let mut devices = Device::all();
        match self {
            DeviceChoice::Auto => devices.retain(|device| !matches!(device, Device::Cuda(1..))),
            DeviceChoice::Only(wanted) if devices.contains(&wanted) => devices = vec![wanted],
            DeviceChoice::Only(wanted) => {
                let here: Vec<String> = devices.iter().map(ToString::to_string).collect();
                return Err(EncodeError::InvalidSetting {
                    variable: "LNSP_DEVICE",
                    received: wanted.to_string(),
                    expected: format!("auto, or a device that libtorch finds here ({})", here.join(", ")),
                });
            }
        }
        Ok(devices)
    }
}

impl FromStr for DeviceChoice {
    type Err = EncodeError;

    fn from_str(value: &str) -> Result<Self, EncodeError> {
        let name = value.trim().to_ascii_lowercase();
        match (name.as_str(), name.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Only(Device::Cpu)),
            ("mps", _) => Ok(DeviceChoice::Only(Device::Mps)),
            ("cuda", _) => Ok(DeviceChoice::Only(Device::Cuda(0))),
            (_, Some(Ok(number))) => Ok(DeviceChoice::Only(Device::Cuda(number))),
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
            DeviceChoice::Only(device) => device.fmt(f),
        }
    }
}

/// The value of `LNSP_DTYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// bf16 if the machine supports it natively and it is faster by measurement, else f32.
    #[default]
    Auto,
    /// The named format.
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

/// The number format of matrix products. Sums, norms and vectors are f32 with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 single precision, 32 bits.
    F32,
    /// bfloat16: 16 bits with the range of f32.
    Bf16,
}

impl Dtype {
    pub(super) fn kind(self) -> tch::Kind {
        match self {
            Dtype::F32 => tch::Kind::Float,
            Dtype::Bf16 => tch::Kind::BFloat16,
        }
    }

    /// Both formats, in the order of measuring.
    pub const ALL: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

    /// Whether the device supports the format natively. Without support the result is the same but slower, so measuring
    /// it would only delay the start. NVIDIA GPUs support bf16 since 2020; older ones are measured and found slower.
    pub fn is_native(self, device: Device) -> bool {
        match (self, device) {
            (Dtype::F32, _) | (Dtype::Bf16, Device::Cuda(_)) => true,
            (Dtype::Bf16, Device::Cpu) => cpu_has_bf16(),
            (Dtype::Bf16, Device::Mps) => false,
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
fn cpu_has_bf16() -> bool {
    // `amx_bf16` cannot be detected on stable Rust; every CPU that has it also has this feature.
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_bf16() -> bool {
    // Graviton 3 and later, Apple M2 and later.
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_bf16() -> bool {
    false
}
