//! Where and in which number format the model computes: `LNSP_DEVICE` and `LNSP_DTYPE`.

use super::EncodeError;
use std::fmt;
use std::str::FromStr;
use tch::{TchError, Tensor};

/// A device of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// Apple's GPU.
    Mps,
    /// One NVIDIA GPU, by its number.
    Cuda(usize),
}

impl Device {
    /// All that libtorch can compute on here; the processor comes first.
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

/// Moves what a pass begins with to where it is computed. To an NVIDIA GPU from memory that cannot be swapped out, so
/// that nobody waits for it: the steps of the pass are queued behind it. libtorch keeps that memory until it is read.
pub(super) fn to_device(tensor: &Tensor, device: tch::Device) -> Result<Tensor, TchError> {
    match device {
        tch::Device::Cuda(_) => {
            let pinned = tensor.f_pin_memory(device)?;
            pinned.f_to_device_(device, tensor.f_kind()?, true, false)
        }
        _ => tensor.f_to_device(device),
    }
}

/// What `LNSP_DEVICE` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The one that is measured to be the fastest.
    #[default]
    Auto,
    /// This one.
    Only(Device),
}

const DEVICES: &str = "auto, cpu, mps or cuda:N (N a device number, such as cuda:0)";

impl DeviceChoice {
    /// The devices among which the fastest is to be taken, at least one. The GPUs of a machine are usually alike, so
    /// the first stands for all; another is asked for by name.
    ///
    /// # Errors
    /// [`EncodeError::InvalidSetting`] when a device that was asked for by name is not here.
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

    /// Both, in the order in which they are measured.
    pub const ALL: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

    /// Whether the device multiplies in this format itself. Where it does not, the result is the same but slower, and
    /// measuring it would only lengthen the start. NVIDIA's do since 2020; an older one is measured, and found slower.
    pub fn is_native(self, device: Device) -> bool {
        match (self, device) {
            (Dtype::F32, _) | (Dtype::Bf16, Device::Cuda(_)) => true,
            (Dtype::Bf16, Device::Cpu) => processor_has_bf16(),
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
