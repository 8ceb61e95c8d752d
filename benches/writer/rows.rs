//! Rows as the writer gets them: texts of some sixty words with codes and vectors of 384 dimensions.

use super::Result;
use super::body::Words;
use lnsp_ingest::chunk::{Chunk, Draft, EmbeddedChunk, Embedding, Extraction, Placement, Tagging, TmdSource};
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::tmd::Tmd;
use std::sync::Arc;
use std::time::Duration;

pub const DIMS: usize = 384;
/// Bytes of a text, about.
const TEXT: usize = 330;

/// The model of the vectors.
pub fn model() -> ModelIdentity {
    let text = |text: &str| text.to_owned();
    ModelIdentity { name: text("bench"), recipe: text("bench"), fingerprint: text("bench"), dims: DIMS }
}

/// So many rows, the same each time.
pub fn rows(count: usize) -> Result<Vec<EmbeddedChunk>> {
    (0..count).map(row).collect()
}

fn row(n: usize) -> Result<EmbeddedChunk> {
    let mut words = Words::new(n + 1);
    let mut text = Vec::new();
    words.write(TEXT, &mut text);
    let placement = Placement {
        document_id: Some(format!("doc-{}", n / 40)),
        chunk_index: (n % 40) as i64,
        article_title: Some(format!("Article {}", n / 40)),
        ..Placement::default()
    };
    let draft = Draft {
        id: Some(format!("row-{n}")),
        dataset: "bench".into(),
        text: String::from_utf8(text)?,
        placement,
        ..Draft::default()
    };
    let chunk = Arc::new(Chunk::new(draft).map_err(|error| format!("{error:?}"))?);
    let code = |kinds: usize| (n * 7 % kinds) as u8;
    let tmd = Tmd::new(code(16), code(32), code(64))?;
    let tagging = Tagging { tmd: Some(tmd), source: TmdSource::Client, confidence: None, took: None };
    let vector = vector(n as u32);
    let embedding = Embedding { vector, truncated: false, unread: None, took: Duration::from_millis(1) };
    Ok(EmbeddedChunk {
        extraction: Extraction::without_llm(&chunk),
        chunk,
        tagging,
        embedding,
        question: None,
    })
}

fn vector(seed: u32) -> Arc<[f32]> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let wave = (0..DIMS).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from((state >> 16) as u16) / 32768.0 - 1.0
    });
    let wave: Vec<f32> = wave.collect();
    let norm = wave.iter().map(|x| x * x).sum::<f32>().sqrt();
    wave.iter().map(|x| x / norm).collect()
}
