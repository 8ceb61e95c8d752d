//! A service whose encoder does with each pass what a test says, and notes it: for stories about passes that fail.

use crate::support::test_service::{Scripted, TestService, models, overrides};
use lnsp_ingest::app::{EncoderFactory, Overrides};
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokenizer, Tokens, Vector};
use lnsp_ingest::model::ModelIdentity;
use std::sync::{Arc, Mutex};

/// What an encoder does with a pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Conduct {
    /// Computes the pass.
    Well,
    /// Panics in the pass.
    Panics,
    /// Says what libtorch says when there is no room.
    RunsOut,
    /// Finds no direction for one of the texts.
    NotFinite(usize),
}

type Script = Arc<dyn Fn(&[&Tokens]) -> Conduct + Send + Sync>;

/// The passes that were asked for, in their order: how many texts, and what came of it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(usize, Conduct)>>>);

impl Log {
    /// All passes so far.
    pub fn passes(&self) -> Vec<(usize, Conduct)> {
        self.0.lock().unwrap().clone()
    }

    /// The sizes of those that went so.
    pub fn sizes(&self, conduct: &Conduct) -> Vec<usize> {
        let passes = self.passes();
        passes.into_iter().filter(|pass| pass.1 == *conduct).map(|pass| pass.0).collect()
    }

    /// Texts that were computed.
    pub fn computed(&self) -> usize {
        self.sizes(&Conduct::Well).iter().sum()
    }
}

struct Unwell(Scripted, Script, Log);

impl Encoder for Unwell {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Vector>, EncodeError> {
        let conduct = self.1(texts);
        self.2.0.lock().unwrap().push((texts.len(), conduct.clone()));
        let mut vectors = self.0.encode(texts)?;
        match conduct {
            Conduct::Well => {}
            Conduct::Panics => panic!("broken"),
            Conduct::RunsOut => return Err(out_of_memory()),
            Conduct::NotFinite(text) => {
                vectors[text] = Err(EncodeError::UnusableVector { received: "values that are not finite" });
            }
        }
        Ok(vectors)
    }
}

/// As libtorch puts it.
fn out_of_memory() -> EncodeError {
    let reason = "CUDA out of memory. Tried to allocate 2.00 GiB".to_owned();
    EncodeError::Torch { doing: "attention", reason }
}

/// A service with an encoder that behaves like this, and what it was asked.
pub async fn service(script: impl Fn(&[&Tokens]) -> Conduct + Send + Sync + 'static) -> (TestService, Log) {
    let (script, log): (Script, _) = (Arc::new(script), Log::default());
    let kept = log.clone();
    let factory: EncoderFactory =
        Arc::new(move || Box::new(Unwell(Scripted::new(), script.clone(), kept.clone())));
    (TestService::build(Overrides { encoder: Some(factory), ..overrides() }, &[]).await, log)
}

/// The tokens of a text, to know it by.
pub fn tokens(text: &str) -> Tokens {
    let files = lnsp_ingest::encoder::locate("all-minilm-l6-v2", &[models()]).unwrap();
    Tokenizer::load(&files).unwrap().tokenize(text).unwrap()
}
