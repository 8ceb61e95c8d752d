//! `lnsp bench --agreement N FILE`: labels N chunks of a file in both forms of answers, and by the local classifier, and
//! says how often they agree and what each costs. So each user decides for the model at hand.

mod report;
mod sample;

use super::llm::BenchLlm;
use crate::app::llm_settings;
use crate::classifier::{ArtefactError, LocalClassifier};
use crate::cli::bench::child::say;
use crate::config::Config;
use crate::llm::{AnswerForm, LlmError, LlmSettings, LlmTrial, TrialAnswer, Wanted};
use futures_util::{StreamExt, stream};
use report::{AgreementReport, Judged};
use sample::SampleError;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error("the LLM at {0} {1}")]
    Llm(String, LlmError),
    #[error("the settings: {0}")]
    Settings(String),
    #[error(transparent)]
    Classifier(#[from] ArtefactError),
}

/// What is measured.
pub struct Agreement<'a> {
    /// The number of texts.
    pub count: usize,
    /// Where they are taken from.
    pub file: &'a Path,
    /// The number of calls at once.
    pub workers: usize,
}

/// Texts that are asked about in one form before the other, for each call at once.
const BLOCK: usize = 10;

/// Asks about each text in both forms, in blocks by turns: both meet the same load, and within a block the constant part
/// of the prompt is in the server's cache, as it is in use.
pub async fn measure(
    agreement: &Agreement<'_>,
    llm: &BenchLlm,
    simulated: Option<&str>,
) -> Result<AgreementReport, AgreementError> {
    let texts = sample::texts(agreement.file, agreement.count)?;
    let settings = settings(simulated)?;
    let connect = async |answer: AnswerForm| {
        let settings = LlmSettings { answer, calls: agreement.workers, ..settings.clone() };
        let trial = LlmTrial::connect(&settings).await;
        trial.map_err(|error| AgreementError::Llm(settings.endpoint.to_string(), error))
    };
    let (names, short) = (connect(AnswerForm::Names).await?, connect(AnswerForm::Short).await?);
    let classifier = LocalClassifier::embedded()?;
    let asked = format!("{} on {} at {}", settings.model, names.server(), settings.endpoint);
    say(&format!("language model: {asked}"));
    let mut judged = Vec::new();
    for (number, block) in texts.chunks(BLOCK * agreement.workers).enumerate() {
        let (first, second) = if number % 2 == 0 { (&names, &short) } else { (&short, &names) };
        let first = ask_all(first, block, agreement.workers).await;
        let second = ask_all(second, block, agreement.workers).await;
        let (names, short) = if number % 2 == 0 { (first, second) } else { (second, first) };
        for ((text, names), short) in block.iter().zip(names).zip(short) {
            judged.push(Judged { names, short, local: classifier.classify(text) });
        }
        say(&format!("{} of {} texts", judged.len(), texts.len()));
    }
    let asked = if simulated.is_some() { format!("{asked} ({llm})") } else { asked };
    Ok(AgreementReport { asked, workers: agreement.workers, judged })
}

/// Asks about each text, so many at once; gives the answers in the order of the texts.
async fn ask_all(trial: &LlmTrial, texts: &[String], workers: usize) -> Vec<Result<TrialAnswer, LlmError>> {
    let asked = texts.iter().map(async |text| trial.ask(text, Wanted::Codes).await);
    stream::iter(asked).buffered(workers).collect().await
}

/// The settings of the first server of the environment, or those of a simulated one.
fn settings(simulated: Option<&str>) -> Result<LlmSettings, AgreementError> {
    let wrong = |error: String| AgreementError::Settings(error);
    let mut config = Config::of_environment().map_err(wrong)?;
    if let Some(url) = simulated {
        let endpoint: crate::endpoint::Endpoint =
            url.parse().map_err(|error: crate::endpoint::InvalidEndpoint| wrong(error.to_string()))?;
        config.llm_endpoint = endpoint.into();
        super::client_pool::MODEL.clone_into(&mut config.tmd_llm_model);
    }
    llm_settings(&config).into_iter().next().ok_or_else(|| wrong("no LLM endpoint".to_owned()))
}
