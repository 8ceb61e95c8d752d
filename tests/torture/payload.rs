//! What is sent: a chunk is a number and a variant, and everything about it follows from those and the seed. So the
//! judge makes again what must be stored, and no texts have to be kept.

use chrono::DateTime;
use lnsp_ingest::chunk::{Chunk, LabelChoice, OnConflict};
use lnsp_ingest::encoder::{EncodeError, Encoder, Tokenizer, Tokens};
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::wire::{SharedNames, UnknownFieldPolicy, WireChunk};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The dataset of everything that is sent.
pub const DATASET: &str = "torture";
/// Dimensions of the model whose tokenizer is used.
const DIMS: usize = 384;

/// Chances of one purpose, which do not depend on what was thrown for another.
pub fn dice(seed: u64, purpose: &str, number: u64) -> StdRng {
    let hash = blake3::hash(format!("{seed} {purpose} {number}").as_bytes());
    StdRng::from_seed(*hash.as_bytes())
}

/// A chunk that can be sent. Variants of one number have one id and different contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Which one.
    pub number: u32,
    /// 0 is the one meant; others are conflicts.
    pub variant: u32,
}

impl Piece {
    /// The chunk that is meant.
    pub fn new(number: u32) -> Piece {
        Piece { number, variant: 0 }
    }

    /// The same id with other content.
    pub fn conflicting(self) -> Piece {
        Piece { variant: self.variant + 1, ..self }
    }

    /// Its id, where it has one.
    pub fn id(self) -> String {
        format!("piece-{}", self.number)
    }

    /// Every fifth has no id of its own, and so cannot conflict.
    pub fn has_id(self) -> bool {
        self.number % 5 != 4
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.variant)
    }
}

impl FromStr for Piece {
    type Err = String;

    fn from_str(text: &str) -> Result<Piece, String> {
        let parts = text.split_once('.').and_then(|(n, v)| Some((n.parse().ok()?, v.parse().ok()?)));
        let (number, variant) = parts.ok_or_else(|| format!("'{text}' is no piece"))?;
        Ok(Piece { number, variant })
    }
}

/// The chunk as JSON.
pub fn json_of(seed: u64, piece: Piece) -> Value {
    let mut dice = dice(seed, &format!("piece {piece}"), 0);
    let length = match dice.random_range(0..100) {
        0..85 => dice.random_range(20..300),
        85..98 => dice.random_range(300..3_000),
        _ => dice.random_range(3_000..60_000),
    };
    let mut text = format!("Fact {} of {seed}, as told {} times:", piece.number, piece.variant + 1);
    while text.len() < length {
        text.push(' ');
        text.push_str(WORDS[dice.random_range(0..WORDS.len())]);
    }
    let mut chunk = json!({"text": text});
    if piece.has_id() {
        chunk["id"] = json!(piece.id());
    }
    if dice.random_bool(0.5) {
        chunk["document_id"] = json!(format!("document {}", piece.number / 7));
        chunk["chunk_index"] = json!(piece.number % 7);
    }
    if dice.random_bool(0.2) {
        chunk["metadata"] =
            json!({"thrown": dice.random_range(0..1_000), "by": ["seed", "ünï 'x' \"y\" \\ {z}"]});
    }
    if dice.random_bool(0.6) {
        chunk["domain_code"] = json!(dice.random_range(0..16));
        chunk["task_code"] = json!(dice.random_range(0..32));
        chunk["modifier_code"] = json!(dice.random_range(0..64));
    }
    chunk
}

const WORDS: [&str; 12] = [
    "a river",
    "turns",
    "cold",
    "by night",
    "Überfluss",
    "naïve",
    "kills -9",
    "the clock",
    "水",
    "\"quoted\"",
    "back\\slash",
    "once, and",
];

/// The chunk as the service has to take it.
pub fn chunk_of(seed: u64, piece: Piece) -> Chunk {
    read_back(json_of(seed, piece).to_string().as_bytes()).unwrap()
}

/// The chunk of a line of JSON, if it is one.
pub fn read_back(line: &[u8]) -> Option<Chunk> {
    let (dataset, unknown_fields) = (DATASET.into(), UnknownFieldPolicy::Keep);
    let text = || "torture".to_owned();
    let model = ModelIdentity { name: text(), recipe: text(), fingerprint: text(), dims: 1 }.into();
    let names = SharedNames {
        dataset,
        batch: None,
        skip_cpesh: false,
        labels: LabelChoice::All,
        on_conflict: OnConflict::Error,
        unknown_fields,
        model,
    };
    WireChunk::read(line).ok()?.check(&names, DateTime::UNIX_EPOCH).ok()
}

/// Lines that are no chunks, with the code of the error that each must get.
pub fn bad_line(dice: &mut StdRng, number: u64) -> (String, &'static str) {
    let id = format!("\"id\":\"bad-{number}\"");
    match dice.random_range(0..7) {
        0 => (format!("{{{id},\"text\":\"cut of"), "invalid_json"),
        1 => (format!("{{{id},\"txet\":\"x\"}}"), "missing_field"),
        2 => (format!("{{{id},\"text\":7}}"), "wrong_type"),
        3 => (format!("{{{id}}}"), "missing_field"),
        4 => (format!("{{{id},\"text\":\" \\n \"}}"), "text_empty"),
        5 => (
            format!("{{{id},\"text\":\"x\",\"domain_code\":16,\"task_code\":0,\"modifier_code\":0}}"),
            "code_out_of_range",
        ),
        _ => (format!("{{{id},\"text\":\"{}\"}}", "x".repeat(64 * 1024 + 1)), "text_too_long"),
    }
}

/// An encoder whose vectors are a function of the tokens, and nothing else.
pub struct Scripted(ModelIdentity);

impl Scripted {
    /// One.
    pub fn new() -> Scripted {
        let text = || "scripted".to_owned();
        Scripted(ModelIdentity { name: text(), recipe: text(), fingerprint: text(), dims: DIMS })
    }
}

impl Encoder for Scripted {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn dims(&self) -> usize {
        DIMS
    }

    fn encode(&mut self, texts: &[&Tokens]) -> Result<Vec<Result<Arc<[f32]>, EncodeError>>, EncodeError> {
        Ok(texts.iter().map(|tokens| Ok(direction(tokens))).collect())
    }
}

/// A unit vector that depends on the tokens alone.
fn direction(tokens: &Tokens) -> Arc<[f32]> {
    let bytes: Vec<u8> = tokens.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut raw = vec![0; DIMS];
    blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut raw);
    let vector: Vec<f32> = raw.iter().map(|byte| f32::from(*byte) - 127.5).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

/// The folder with the models that set-up has fetched.
pub fn models() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/models")
}

/// Makes the vector that must be stored for a text.
pub struct Remaking(Tokenizer);

impl Remaking {
    /// With the tokenizer of the model.
    pub fn new() -> Remaking {
        let files = lnsp_ingest::encoder::locate("all-minilm-l6-v2", &[models()]).unwrap();
        Remaking(Tokenizer::load(&files).unwrap())
    }

    /// The vector of a text.
    pub fn vector(&self, text: &str) -> Arc<[f32]> {
        direction(&self.0.tokenize(text).unwrap())
    }
}
