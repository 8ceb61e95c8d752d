//! The vectors: windows of the corpus as the model embeds them, and mixtures of them.

use super::service::{Result, Service};
use lnsp_ingest::encoder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Windows of so many words, each a third of its length after the one before.
const WINDOWS: [usize; 3] = [12, 25, 50];
/// Windows that are embedded at most.
const EMBEDDED: usize = 24_000;
/// Windows that are queries, and not among the rows.
pub const QUERIES: usize = 500;
/// The noise of a mixture: the length of what is added to it.
const NOISE: f32 = 0.2;

pub struct Corpus {
    pub dims: usize,
    /// The rows. Their number is their place.
    pub rows: Vec<Arc<[f32]>>,
    pub queries: Vec<Arc<[f32]>>,
    /// The first texts that were queries.
    pub query_texts: Vec<String>,
    /// Rows that are no mixture.
    pub embedded: usize,
    pub fingerprint: String,
}

impl Corpus {
    pub async fn load(rows: usize) -> Result<Corpus> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = encoder::locate("all-minilm-l6-v2", &[root.join(".deps/models")])?;
        let identity = files.identity()?;
        let mut random = StdRng::seed_from_u64(20);
        let texts = windows(&corpus_file(root)?, &mut random)?;
        let kept = root.join(format!("target/search-vectors-{}.f32", &identity.fingerprint[..12]));
        let vectors = match read(&kept, identity.dims) {
            Some(vectors) if vectors.len() == texts.len() => vectors,
            _ => {
                println!("embedding {} windows, once", texts.len());
                let vectors = embed(&texts).await?;
                std::fs::write(&kept, vectors.iter().flat_map(|v| bytes(v)).collect::<Vec<u8>>())?;
                vectors
            }
        };
        let (queries, pool) = vectors.split_at(QUERIES.min(vectors.len() / 2));
        let embedded = pool.len().min(rows);
        let mut all: Vec<Arc<[f32]>> = pool[..embedded].to_vec();
        while all.len() < rows {
            let share = random.random_range(0.3..1.0f32);
            let (one, other) = (random.random_range(0..pool.len()), random.random_range(0..pool.len()));
            let step = NOISE / (identity.dims as f32).sqrt() * 3f32.sqrt();
            let mixed = pool[one]
                .iter()
                .zip(pool[other].iter())
                .map(|(a, b)| a * share + b * (1.0 - share) + random.random_range(-step..step));
            all.push(unit(mixed.collect()));
        }
        all.shuffle(&mut random);
        Ok(Corpus {
            dims: identity.dims,
            rows: all,
            queries: queries.to_vec(),
            query_texts: texts[..queries.len()].to_vec(),
            embedded,
            fingerprint: identity.fingerprint,
        })
    }

    /// The places of the ten nearest rows of each query, by looking at all that `passes`.
    pub fn nearest(&self, passes: impl Fn(usize) -> bool) -> Vec<Vec<u32>> {
        let rows: Vec<(usize, &Arc<[f32]>)> =
            self.rows.iter().enumerate().filter(|(n, _)| passes(*n)).collect();
        let nearest = |query: &Arc<[f32]>| {
            let mut scores: Vec<(f32, u32)> = rows
                .iter()
                .map(|(place, row)| (row.iter().zip(query.iter()).map(|(a, b)| a * b).sum(), *place as u32))
                .collect();
            scores.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            scores.iter().take(10).map(|(_, place)| *place).collect()
        };
        self.queries.iter().map(nearest).collect()
    }
}

pub fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn unit(vector: Vec<f32>) -> Arc<[f32]> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

fn corpus_file(root: &Path) -> Result<PathBuf> {
    let file = std::env::var_os("LNSP_BENCH_CORPUS").map(PathBuf::from);
    let file = file.unwrap_or_else(|| root.join("tests/data/sample.ndjson"));
    if file.is_file() { Ok(file) } else { Err("LNSP_BENCH_CORPUS: expected an NDJSON file of chunks".into()) }
}

fn windows(file: &Path, random: &mut StdRng) -> Result<Vec<String>> {
    let mut windows = Vec::new();
    for line in std::fs::read_to_string(file)?.lines().filter(|line| !line.trim().is_empty()) {
        let chunk: Value = serde_json::from_str(line)?;
        let words: Vec<&str> = chunk["text"].as_str().unwrap_or_default().split_whitespace().collect();
        for size in WINDOWS {
            for start in (0..words.len().saturating_sub(size / 2)).step_by((size / 3).max(1)) {
                windows.push(words[start..words.len().min(start + size)].join(" "));
            }
        }
    }
    windows.sort_unstable();
    windows.dedup();
    windows.shuffle(random);
    windows.truncate(EMBEDDED);
    Ok(windows)
}

fn read(file: &Path, dims: usize) -> Option<Vec<Arc<[f32]>>> {
    let bytes = std::fs::read(file).ok()?;
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    Some(floats.chunks_exact(dims).map(Into::into).collect())
}

/// By a service as it is.
async fn embed(texts: &[String]) -> Result<Vec<Arc<[f32]>>> {
    let service = Service::start(&["--tmd-backend", "local"]).await?;
    let mut vectors = Vec::with_capacity(texts.len());
    for texts in texts.chunks(512) {
        for vector in service.state().vectorizer.vectors(texts.to_vec()).await {
            vectors.push(vector?);
        }
    }
    service.stop().await;
    Ok(vectors)
}
