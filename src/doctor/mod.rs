//! What `lnsp doctor` finds out: one line for each thing the service needs, how fast the devices are, and what to set
//! on this machine.
//!
//! It looks, and changes nothing: it starts no PostgreSQL, migrates no table. Where it may measure, it asks each language
//! model server about some small texts, for which that loads the model. It reads the embedding model as the start does. In the data folder it makes one file of no name that stays, so it may run beside
//! the service.
//!
//! ```text
//! machine    cores, memory, open files            llm        each LLM server: there, answers, parallel
//! data       data folder, disk                    network    the port
//! model      libtorch, model folder or server     devices    the table, measured
//! database   own or configured, connections       advice     from all of it: what to set
//! ```

mod advice;
mod check;
mod data;
mod database;
mod devices;
mod llm;
mod machine;
mod model;
mod network;
mod parallelism;

pub use advice::{Situation, Suggestion, suggest};
pub use check::{Check, Grade};
pub use devices::{DeviceRow, rows};

use crate::config::{Config, TmdBackend};
use crate::encoder::{Comparison, Device, EncoderOptions, ModelFiles, formats, rate};
use machine::Machine;
use serde::Serialize;

/// A setting as the service would read it; without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The name of the variable.
    pub name: String,
    /// The value of the setting.
    pub value: String,
    /// Where the value comes from: `flag`, `environment` or `default`.
    pub source: &'static str,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct DoctorReport {
    /// Of this program.
    pub version: &'static str,
    /// All settings of the service.
    pub settings: Vec<Setting>,
    /// One line for each check.
    pub checks: Vec<Check>,
    /// Empty when nothing was measured.
    pub devices: Vec<DeviceRow>,
    /// What would suit this machine better.
    pub suggestions: Vec<Suggestion>,
}

impl DoctorReport {
    /// The service would start.
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|check| check.grade < Grade::Failure)
    }
}

/// Looks at everything. With `measure` it keeps all cores busy for some seconds for each device and number format.
pub async fn examine(config: &Config, settings: Vec<Setting>, measure: bool) -> DoctorReport {
    let machine = Machine::read();
    let devices = Device::all();
    let mut checks = vec![settings_check(&settings)];
    checks.extend(one_at_a_time(config));
    let model = model::check(config).await;
    checks.extend(machine.checks(model.as_ref().ok().map(model::ModelFinding::memory)));
    checks.extend(data::checks(&config.data_dir));
    checks.extend(model::torch_checks(config, &devices));
    let (files, identity) = match model {
        Ok(found) => {
            checks.push(found.check);
            (found.files, Some(found.identity))
        }
        Err(failure) => {
            checks.push(failure);
            (None, None)
        }
    };
    checks.extend(database::checks(config, identity.as_ref()).await);
    let llm = llm::llm_findings(config, measure).await;
    checks.extend(llm.checks);
    checks.push(network::port_check(config).await);
    checks.push(machine.open_files());

    let comparison = match &files {
        Some(files) if measure => compare(config, files, &devices),
        _ => Comparison::default(),
    };
    let allowed = config.device.devices().unwrap_or_default();
    let situation = Situation {
        memory: machine.memory.map(|memory| memory.usable()),
        llm_here: config.tmd_backend != TmdBackend::Local
            && config.llm_endpoint.iter().any(|server| network::is_here(&server.endpoint.to_string())),
        workers: config.max_parallel_workers,
        uploads: config.max_uploads,
        device: config.device,
        dtype: config.dtype,
    };
    let mut suggestions = suggest(&situation, &comparison);
    suggestions.extend(llm.suggestions);
    let devices = rows(&comparison, &allowed, config.dtype);
    DoctorReport { version: env!("CARGO_PKG_VERSION"), settings, checks, devices, suggestions }
}

fn compare(config: &Config, files: &ModelFiles, devices: &[Device]) -> Comparison {
    let options = EncoderOptions {
        files: files.clone(),
        device: Device::Cpu,
        dtype: config.dtype,
        threads: None,
        batch_texts: config.enable_batch_embeddings,
        tuning: None,
    };
    Comparison::measure(formats(devices, config.dtype), |device, dtype| {
        rate(&EncoderOptions { device, dtype, ..options.clone() })
    })
}

/// The controls of a benchmark, left on.
fn one_at_a_time(config: &Config) -> Vec<Check> {
    let name = "parallel";
    let mut checks = Vec::new();
    if !config.enable_parallel {
        let finding = "chunks are processed one after the other (LNSP_ENABLE_PARALLEL=false)";
        checks.push(Check::warning(name, finding, "unset LNSP_ENABLE_PARALLEL, or set it to true"));
    }
    if !config.enable_batch_embeddings {
        let finding = "texts are embedded one after the other (LNSP_ENABLE_BATCH_EMBEDDINGS=false)";
        checks.push(Check::warning(name, finding, "unset LNSP_ENABLE_BATCH_EMBEDDINGS, or set it to true"));
    }
    checks
}

fn settings_check(settings: &[Setting]) -> Check {
    let set: Vec<String> = settings
        .iter()
        .filter(|setting| setting.source != "default")
        .map(|Setting { name, value, source }| format!("{name}={value} ({source})"))
        .collect();
    let finding = if set.is_empty() { "all defaults".to_owned() } else { set.join(", ") };
    Check::ok("configuration", finding)
}
