//! What was decided at the start of the service.

use crate::allowed_host::AllowedHost;
use crate::chunk::LabelChoice;
use crate::model::ModelIdentity;
use std::sync::Arc;

/// What was decided at the start of the service, for `/health` and the answers.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    /// Hosts that requests may name besides those of loopback.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The embedding model of the store.
    pub model: Arc<ModelIdentity>,
    /// The device that the model runs on.
    pub device: String,
    /// The devices it was chosen from; empty with a single device.
    pub devices: Vec<MeasuredDevice>,
    /// The number format of the model, for example `bf16`.
    pub dtype: String,
    /// The number of concurrent forward passes.
    pub encoders: usize,
    /// The maximum number of tokens in a forward pass, padding included.
    pub pass_tokens: usize,
    /// The maximum number of texts in a forward pass.
    pub pass_texts: usize,
    /// `LNSP_LABELS`: which codes chunks get whose request does not say.
    pub labels: LabelChoice,
    /// `LNSP_TMD_BACKEND`.
    pub tmd_backend: String,
    /// The local classifier with its version, for example `local:1`.
    pub local_source: String,
    /// The addresses of the language model, as configured; absent when none is wanted.
    pub llm_endpoint: Option<String>,
    /// Chunks whose request does not say which codes they get are rejected when the language model has no answer.
    pub llm_required: bool,
    /// `LNSP_ENABLE_PARALLEL`.
    pub parallel: bool,
    /// `LNSP_MAX_PARALLEL_WORKERS`.
    pub max_workers: usize,
    /// `LNSP_ENABLE_BATCH_EMBEDDINGS`.
    pub batch_embeddings: bool,
    /// `LNSP_ENABLE_CPESH`.
    pub cpesh: bool,
}

/// A device that was measured when the service started.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MeasuredDevice {
    /// The device, as `LNSP_DEVICE` names it.
    pub device: String,
    /// Short paragraphs embedded per second.
    pub texts_per_s: Option<f64>,
    /// The error that kept it from being used.
    pub problem: Option<String>,
}
