//! libtorch and the model: its folder, or the embedding server that is asked instead.

use super::check::{Check, mebibytes};
use crate::app::model_files;
use crate::config::Config;
use crate::encoder::{Device, EncodeError, EncoderOptions, ModelFiles, Parallelism, Tokenizer, try_out};
use crate::endpoint::EndpointList;
use crate::model::ModelIdentity;
use crate::vectorizer::{Remote, RemoteSettings};
use std::path::Path;

/// What the service takes without weights, and at the peak of loading for each byte of weights: as they are read and
/// in two ways to compute. Measured with models of 87 and 415 MiB: 371 and 1,139 MiB.
const WITHOUT_WEIGHTS: u64 = 300 << 20;
const FOR_WEIGHTS: f64 = 2.4;

/// A usable model.
pub struct ModelFinding {
    /// `None` when a server is asked.
    pub files: Option<ModelFiles>,
    pub identity: ModelIdentity,
    pub check: Check,
    weights: u64,
}

impl ModelFinding {
    /// What the service takes with it, at most.
    pub fn memory(&self) -> u64 {
        WITHOUT_WEIGHTS + (self.weights as f64 * FOR_WEIGHTS) as u64
    }
}

/// The model of the configuration, read as the start reads it, or the line that says why there is none.
pub async fn check(config: &Config) -> Result<ModelFinding, Check> {
    match &config.embedding_endpoint {
        Some(servers) => ask(servers).await,
        None => find(config).map_err(|error| Check::failure("model", error, "")),
    }
}

async fn ask(servers: &EndpointList) -> Result<ModelFinding, Check> {
    // A check does not wait for a server that is about to start.
    let settings = RemoteSettings { repeats: 0, ..RemoteSettings::at(servers.clone()) };
    let remote = Remote::connect(settings).await.map_err(|error| Check::failure("model", error, ""))?;
    let identity = remote.identity().clone();
    let (used, unused): (Vec<_>, Vec<_>) =
        remote.servers().into_iter().partition(|server| server.standing.is_usable());
    let used: Vec<&str> = used.iter().map(|server| &*server.endpoint).collect();
    let finding = format!("{identity} at {}, on {}", used.join(", "), remote.device());
    let failures: Vec<String> =
        unused.into_iter().filter_map(|server| Some(server.last_failure?.0)).collect();
    let check = match failures.is_empty() {
        true => Check::ok("model", finding),
        false => Check::warning(
            "model",
            format!("{finding}; {}", failures.join("; ")),
            "mend it; the others are asked",
        ),
    };
    Ok(ModelFinding { files: None, identity, check, weights: 0 })
}

fn find(config: &Config) -> Result<ModelFinding, EncodeError> {
    let files = model_files(config, &config.data_dir)?;
    Tokenizer::load(&files)?;
    let identity = files.identity()?;
    // A device that is not there has a line of its own.
    let device =
        config.device.devices().ok().and_then(|devices| devices.first().copied()).unwrap_or(Device::Cpu);
    try_out(&EncoderOptions {
        files: files.clone(),
        device,
        dtype: config.dtype,
        threads: Some(Parallelism::on(device).threads),
        batch_texts: config.enable_batch_embeddings,
        tuning: None,
    })?;
    let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let weights = files.weights.iter().map(size).sum();
    let finding = format!(
        "{identity} in {}; the first {} tokens of a text; weights {}",
        files.folder.display(),
        files.max_tokens,
        mebibytes(weights)
    );
    Ok(ModelFinding { files: Some(files), identity, check: Check::ok("model", finding), weights })
}

/// libtorch, and whether it sees what the machine has.
pub fn torch_checks(config: &Config, devices: &[Device]) -> Vec<Check> {
    let here: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let finding = format!("{}; devices: {}", env!("LNSP_LIBTORCH"), here.join(", "));
    let nvidia = Path::new("/dev/nvidia0").exists() && !devices.iter().any(|d| matches!(d, Device::Cuda(_)));
    let torch = if nvidia {
        let advice = "there is an NVIDIA GPU that this libtorch cannot use: build again against one with CUDA \
                      (LIBTORCH, or LIBTORCH_USE_PYTORCH=1 with a full PyTorch)";
        Check::warning("libtorch", finding, advice)
    } else {
        Check::ok("libtorch", finding)
    };
    let absent = config.device.devices().err().map(|error| Check::failure("device", error, ""));
    [torch].into_iter().chain(absent).collect()
}
