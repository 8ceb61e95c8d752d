//! An encoder that counts texts, computes nothing while it is shut, and breaks on one text: for stories about what
//! happens while a chunk is inside.

use crate::support::test_service::{Scripted, models};
use lnsp_ingest::app::EncoderFactory;
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokenizer, Tokens};
use lnsp_ingest::model::ModelIdentity;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The handle; clones turn the same gate.
#[derive(Clone, Default)]
pub struct GatedEncoder {
    shut: Arc<(Mutex<bool>, Condvar)>,
    texts: Arc<AtomicUsize>,
    passes: Arc<Mutex<Vec<Vec<Tokens>>>>,
    bad: Arc<Mutex<Option<String>>>,
}

impl GatedEncoder {
    /// A gate that holds each pass until [`Self::open`].
    pub fn shut() -> GatedEncoder {
        let gate = GatedEncoder::default();
        *gate.shut.0.lock().unwrap() = true;
        gate
    }

    /// Lets all passes through from now on.
    pub fn open(&self) {
        *self.shut.0.lock().unwrap() = false;
        self.shut.1.notify_all();
    }

    /// Texts that were computed.
    pub fn texts(&self) -> usize {
        self.texts.load(Ordering::SeqCst)
    }

    /// The passes that have come to it, in the order of their coming.
    pub fn passes(&self) -> Vec<Vec<Tokens>> {
        self.passes.lock().unwrap().clone()
    }

    /// Breaks on this text from now on, or on none.
    pub fn break_on(&self, text: Option<&str>) {
        let files = lnsp_ingest::encoder::locate("all-minilm-l6-v2", &[models()]).unwrap();
        let tokenizer = Tokenizer::load(&files).unwrap();
        *self.bad.lock().unwrap() = text.map(|text| format!("{:?}", tokenizer.tokenize(text).unwrap()));
    }

    /// To put into `Overrides`.
    pub fn factory(&self) -> EncoderFactory {
        let gate = self.clone();
        Arc::new(move || Box::new(Behind(Scripted::new(), gate.clone())))
    }
}

struct Behind(Scripted, GatedEncoder);

impl Encoder for Behind {
    fn identity(&self) -> &ModelIdentity {
        self.0.identity()
    }

    fn dims(&self) -> usize {
        self.0.dims()
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        let GatedEncoder { shut, texts: counted, passes, bad } = &self.1;
        passes.lock().unwrap().push(texts.iter().map(|&tokens| tokens.clone()).collect());
        let mut is_shut = shut.0.lock().unwrap();
        while *is_shut {
            is_shut = shut.1.wait(is_shut).unwrap();
        }
        drop(is_shut);
        let bad = bad.lock().unwrap().clone();
        let broken = texts.iter().any(|tokens| bad.as_ref() == Some(&format!("{tokens:?}")));
        // A pass that breaks is computed again in halves; each text counts once.
        if !broken || texts.len() == 1 {
            counted.fetch_add(texts.len(), Ordering::SeqCst);
        }
        assert!(!broken, "broken");
        self.0.encode(texts)
    }
}
