//! Forward passes that fail as a whole: they go in halves until the bad text stands alone, and everybody else is
//! stored as if nothing had been.

use crate::house::{House, Scripted, fittings, models, numbered, tally};
use lnsp_ingest::app::{EncoderFactory, Fittings};
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokenizer, Tokens, Vector};
use lnsp_ingest::model::ModelIdentity;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// What an encoder does with a pass.
#[derive(Debug, Clone, PartialEq)]
enum Conduct {
    /// Computes it.
    Well,
    /// Panics.
    Panics,
    /// Says what libtorch says when there is no room.
    RunsOut,
    /// Finds no direction for one of the texts.
    NotFinite(usize),
}

type Script = Arc<dyn Fn(&[&Tokens]) -> Conduct + Send + Sync>;

/// The passes that were asked for, in their order: how many texts, and what came of it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(usize, Conduct)>>>);

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
async fn house(script: impl Fn(&[&Tokens]) -> Conduct + Send + Sync + 'static) -> (House, Log) {
    let (script, log): (Script, _) = (Arc::new(script), Log::default());
    let kept = log.clone();
    let factory: EncoderFactory =
        Arc::new(move || Box::new(Unwell(Scripted::new(), script.clone(), kept.clone())));
    (House::build(Fittings { encoder: Some(factory), ..fittings() }, &[]).await, log)
}

/// The tokens of a text, to know it by.
fn tokens(text: &str) -> Tokens {
    let files = lnsp_ingest::encoder::locate("all-minilm-l6-v2", &[models()]).unwrap();
    Tokenizer::load(&files).unwrap().tokenize(text).unwrap()
}

const BAD: &str = "This is fact number 31.";

/// The line with an error in it, which must be the only one.
fn rejected(answer: &[Value]) -> &Value {
    let mut errors = answer.iter().filter(|line| line["status"] == "error");
    let error = errors.next().unwrap();
    assert!(errors.next().is_none());
    error
}

#[actix_web::test]
async fn a_text_that_panics_is_found_by_halving_and_fails_alone() {
    let bad = tokens(BAD);
    let panics = move |texts: &[&Tokens]| if texts.contains(&&bad) { Conduct::Panics } else { Conduct::Well };
    let (house, log) = house(panics).await;
    let answer = house.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&"embed_failed".into(), &"the model broke on this text".into())
    );
    assert_eq!(house.stored().await, 63);
    assert_eq!(house.state.pipeline.health().generation, 1, "no stage has died of it");
    house.stop().await;

    // Each failed pass is about half of the last one, down to the text itself; all others were computed once.
    let log = log.0.lock().unwrap();
    let failed: Vec<usize> = log.iter().filter(|pass| pass.1 == Conduct::Panics).map(|pass| pass.0).collect();
    let halves = |pair: &[usize]| [pair[0] / 2, pair[0].div_ceil(2)].contains(&pair[1]);
    assert!(failed.windows(2).all(halves) && failed.last() == Some(&1), "{failed:?}");
    let computed: usize = log.iter().filter(|pass| pass.1 == Conduct::Well).map(|pass| pass.0).sum();
    assert_eq!(computed, 63);
}

#[actix_web::test]
async fn a_pass_that_is_too_large_for_the_memory_goes_in_parts_and_everything_is_stored() {
    const ROOM: usize = 3;
    let (house, log) = house(|texts| if texts.len() > ROOM { Conduct::RunsOut } else { Conduct::Well }).await;
    assert_eq!(tally(&house.stream(numbered(0..200)).await), (200, 0, 0));
    assert_eq!(house.stored().await, 200);
    house.stop().await;
    let log = log.0.lock().unwrap();
    let computed: usize = log.iter().filter(|pass| pass.1 == Conduct::Well).map(|pass| pass.0).sum();
    assert_eq!(computed, 200, "each text was computed once");
    let larger = |passes: &[(usize, Conduct)]| passes.iter().filter(|pass| pass.0 > 2 * ROOM).count();
    let (first, second) = log.split_at(log.len() / 2);
    assert!(larger(first) > 0 && larger(second) > 0, "a later batch is as large as ever: {log:?}");
}

#[actix_web::test]
async fn a_text_that_has_no_room_even_alone_says_so() {
    let bad = tokens(BAD);
    let (house, _) =
        house(move |texts| if texts.contains(&&bad) { Conduct::RunsOut } else { Conduct::Well }).await;
    let answer = house.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "embed_failed");
    assert!(message.starts_with("the model has not enough memory for this text alone"), "{message}");
    house.stop().await;
}

#[actix_web::test]
async fn a_vector_that_is_not_finite_fails_its_chunk_alone_and_costs_no_second_pass() {
    let bad = tokens(BAD);
    let (house, log) = house(move |texts| {
        texts.iter().position(|text| **text == bad).map_or(Conduct::Well, Conduct::NotFinite)
    })
    .await;
    let answer = house.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error = &rejected(&answer)["error"];
    assert_eq!(error["code"], "embed_failed");
    assert!(error["message"].as_str().unwrap().contains("values that are not finite"), "{error}");
    assert_eq!(house.stored().await, 63);
    assert_eq!(log.0.lock().unwrap().iter().map(|pass| pass.0).sum::<usize>(), 64);
    house.stop().await;
}
