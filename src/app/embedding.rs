//! Finds the model, reads it, and puts it on its threads; or finds the server that is asked instead.

use super::overrides::EncoderFactory;
use super::start_error::StartError;
use crate::config::Config;
use crate::encoder::plan::Budget;
use crate::encoder::{
    self, Calibration, Comparison, Device, EncodeError, Encoder, EncoderOptions, ModelFiles, Parallelism,
    TchEncoder, Tokenizer,
};
use crate::model::{ModelIdentity, folder_name};
use crate::store::StoredModel;
use crate::threads::{Worker, lock};
use crate::vectorizer::{EncoderPool, Local, Remote, RemoteSettings, Vectorizer};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The classifier and the tokenizer take microseconds a text, so one thread of each is enough.
pub const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// The queue of the classifier and of the tokenizer: long enough that their threads do not sleep between two chunks.
pub const CPU_QUEUE: usize = 64;

/// Where models are looked for by name: in the data folder, and where set-up has put them: here, above the binary, or
/// where it was built.
pub fn model_folders(data_dir: &Path) -> Vec<PathBuf> {
    let binary = std::env::current_exe().unwrap_or_default();
    let above = binary.ancestors().skip(1).map(|folder| folder.join(".deps/models"));
    let here = std::env::current_dir().map(|folder| folder.join(".deps/models"));
    let mut folders = vec![data_dir.join("models")];
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/models");
    folders.extend(here.into_iter().chain(above).chain([built]).filter(|folder| folder.is_dir()));
    folders.dedup();
    folders
}

/// The model of a new store, unless another one is configured.
const DEFAULT_MODEL: &str = "all-minilm-l6-v2";

/// The model of the configuration, or the one of a new store.
pub fn model_files(config: &Config, data_dir: &Path) -> Result<ModelFiles, EncodeError> {
    named_model(config.embedding_model.as_deref().unwrap_or(DEFAULT_MODEL), config, data_dir)
}

/// The model of this name or folder, with the configured limit of tokens.
pub fn named_model(name: &str, config: &Config, data_dir: &Path) -> Result<ModelFiles, EncodeError> {
    let files = encoder::locate(name, &model_folders(data_dir))?;
    match config.embedding_max_tokens {
        Some(tokens) => files.with_max_tokens(tokens),
        None => Ok(files),
    }
}

/// The files of a model of the store: where it was found last, or by its name. `None` where neither has its fingerprint.
pub fn stored_model(stored: &StoredModel, config: &Config, data_dir: &Path) -> Option<ModelFiles> {
    let places = stored.location.as_deref().into_iter().chain([stored.identity.name.as_str()]);
    places.filter_map(|place| named_model(place, config, data_dir).ok()).find(|files| {
        files.identity().is_ok_and(|identity| identity.fingerprint == stored.identity.fingerprint)
    })
}

/// How a model is found again: by its name, or by the whole path of its folder.
pub fn location(name: &str, files: &ModelFiles) -> String {
    let by_name = folder_name(name).is_some_and(|folder| files.folder.ends_with(folder));
    let folder = || files.folder.canonicalize().unwrap_or_else(|_| files.folder.clone());
    if by_name { name.to_owned() } else { folder().display().to_string() }
}

/// Who gives the vectors, and what is to be said about it.
pub struct EmbeddingSetup {
    /// For the stage, for searches, and for those who ask for vectors.
    pub vectorizer: Vectorizer,
    /// The identity of the vectors.
    pub identity: ModelIdentity,
    /// What computes them.
    pub device: String,
    /// The number format that was found the faster.
    pub dtype: String,
    /// What was measured, for the log.
    pub measured: String,
    /// How fast the devices are that it was chosen from; empty where there is only one.
    pub devices: Comparison,
    /// How the model is found again; `None` of a server.
    pub location: Option<String>,
}

/// The embedding servers of the configuration, else a model of our own: the configured one, or that of the store. `stored`
/// is the model of the store.
pub async fn embedding(
    config: &Config,
    data_dir: &Path,
    factory: Option<EncoderFactory>,
    stored: Option<StoredModel>,
) -> Result<EmbeddingSetup, StartError> {
    if let Some(servers) = &config.embedding_endpoint {
        let stored = stored.map(|stored| stored.identity);
        let settings = RemoteSettings { stored, ..RemoteSettings::at(servers.clone()) };
        return there(settings, config.enable_batch_embeddings).await;
    }
    // A store without a usable folder of its model gets the default, which then is refused with what to do.
    let of_store = stored.filter(|_| config.embedding_model.is_none());
    let of_store = of_store.and_then(|stored| Some((stored_model(&stored, config, data_dir)?, stored)));
    let (files, location) = match of_store {
        Some((files, stored)) => (files, stored.location),
        None => {
            let files = model_files(config, data_dir)?;
            let location = location(config.embedding_model.as_deref().unwrap_or(DEFAULT_MODEL), &files);
            (files, Some(location))
        }
    };
    Ok(EmbeddingSetup { location, ..vectorizer_of(config, &files, factory)? })
}

/// Servers: each cuts what it is sent into passes itself, and several requests keep it busy.
async fn there(settings: RemoteSettings, batch_texts: bool) -> Result<EmbeddingSetup, StartError> {
    let remote = Remote::connect(settings).await.map_err(StartError::Vectors)?;
    let (identity, device) = (remote.identity().clone(), remote.device().to_owned());
    let unused = remote.servers().into_iter().filter(|server| !server.standing.is_usable());
    let unused =
        unused.filter_map(|server| Some(format!("; {}", server.last_failure?.0))).collect::<String>();
    let measured = format!("asked at {} (on {device}){unused}", remote.endpoint());
    let budget = Budget { tokens: 8192, texts: if batch_texts { 64 } else { 1 } };
    let vectorizer = Vectorizer::remote(remote, budget);
    let (dtype, devices) = ("remote".to_owned(), Comparison::default());
    Ok(EmbeddingSetup { vectorizer, identity, device, dtype, measured, devices, location: None })
}

/// Puts the model on its threads. It is read and calibrated once, on the first; the others, and each that is built anew
/// after a panic, compute in the same way over the same weights.
pub fn vectorizer_of(
    config: &Config,
    files: &ModelFiles,
    factory: Option<EncoderFactory>,
) -> Result<EmbeddingSetup, EncodeError> {
    let tokenizer = Arc::new(Tokenizer::load(files)?);
    let build = move || Ok::<_, EncodeError>(tokenizer.clone());
    let tokenizer = Worker::spawn("lnsp-tokenizer", ONE, CPU_QUEUE, build)?;
    let batch_texts = config.enable_batch_embeddings;
    let mut options = EncoderOptions {
        files: files.clone(),
        device: Device::Cpu,
        dtype: config.dtype,
        threads: None,
        batch_texts,
        tuning: None,
    };
    let mut devices = config.device.devices()?;
    // What is scripted computes nowhere.
    devices.truncate(if factory.is_some() { 1 } else { devices.len() });
    let settled = encoder::settle(&devices, config.dtype, |device, _| {
        encoder::rate(&EncoderOptions { device, ..options.clone() })
    })?;
    let parallelism = Parallelism::on(settled.device);
    (options.device, options.tuning, options.threads) =
        (settled.device, settled.tuning, Some(parallelism.threads));
    let first = Arc::new(Mutex::new(None::<(TchEncoder, Calibration)>));
    let weights = first.clone();
    let build = move || -> Result<Box<dyn Encoder>, EncodeError> {
        if let Some(factory) = &factory {
            return Ok(factory());
        }
        let mut weights = lock(&weights);
        let (encoder, _) = match &mut *weights {
            Some(loaded) => loaded,
            none => none.insert(encoder::load(&options)?),
        };
        Ok(Box::new(encoder.share_weights()))
    };
    // One job waits while others run: a longer queue would only make a search wait longer.
    let encoders: EncoderPool = Worker::spawn("lnsp-model", parallelism.encoders, 1, build)?;
    let found = lock(&first).as_ref().map(|(_, found)| found.clone());
    let (mut budget, dtype, measured) = match found {
        Some(found) => {
            (found.tuning.budget, found.tuning.dtype.to_string(), format!("{parallelism}, {found}"))
        }
        None => (Budget { tokens: 2048, texts: 64 }, "none".to_owned(), "scripted".to_owned()),
    };
    if !batch_texts {
        budget.texts = 1;
    }
    Ok(EmbeddingSetup {
        vectorizer: Vectorizer::local(Local { encoders, tokenizer }, budget),
        identity: files.identity()?,
        device: settled.device.to_string(),
        dtype,
        measured,
        devices: settled.comparison,
        location: None,
    })
}
