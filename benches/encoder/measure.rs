//! The rounds: each number format alone and side by side, the machine's matrix rate, then each peer.

use crate::median;
use crate::parallelism::encode_all;
use crate::peers::{BF16, F32, ONNX, Peers};
use crate::service::Result;
use crate::work::{flop, matrix_rate};
use lnsp_ingest::encoder::plan::Budget;
use lnsp_ingest::encoder::{
    Device, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, ModelFiles, Parallelism, TchEncoder,
    Tokens, load,
};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

const NEIGHBOURS: usize = 10;
const LONE_QUERIES: usize = 50;
/// Texts that a peer's vectors are compared for.
const COMPARED: usize = 64;
/// Below it, the peer does other work than we do.
const SAME: f32 = 0.9999;

/// One number format and its times.
struct Candidate {
    dtype: Dtype,
    encoder: Mutex<TchEncoder>,
    budget: Budget,
    /// Texts in a second by all encoders at once, and by one on one thread.
    together: Vec<f64>,
    alone: Vec<f64>,
    matrix: Vec<f64>,
    padding: f64,
}

/// Prints all figures of speed.
pub fn measure(
    files: &ModelFiles,
    tokens: &[Tokens],
    query: &Tokens,
    mut peers: Option<Peers>,
    rounds: usize,
) -> Result<()> {
    let parallelism = Parallelism::on(Device::Cpu);
    println!("{parallelism}");
    let mut candidates = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (encoder, calibration) = load(&options(files, dtype, parallelism.threads))?;
        println!("{dtype}: {calibration}");
        let (encoder, budget) = (Mutex::new(encoder), calibration.tuning.budget);
        let (together, alone, matrix) = (Vec::new(), Vec::new(), Vec::new());
        candidates.push(Candidate { dtype, encoder, budget, together, alone, matrix, padding: 0.0 });
    }
    let mut peer_rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for candidate in &mut candidates {
            candidate.round(tokens, parallelism.encoders.get())?;
        }
        if let Some(peers) = &mut peers {
            for peer in [F32, BF16, ONNX] {
                peer_rates.entry(peer).or_default().push(tokens.len() as f64 / peers.round(peer)?);
            }
        }
    }
    let flop =
        tokens.iter().map(|text| flop(&files.architecture, text.len())).sum::<f64>() / tokens.len() as f64;
    let mut vectors = Vec::new();
    for candidate in &candidates {
        candidate.print(flop, query)?;
        vectors.push(candidate.vectors(tokens)?);
    }
    println!("figure encoder.padding_ratio {:.4} share", candidates[0].padding);
    println!("figure encoder.top10_overlap {:.4} share", overlap(&vectors[0], &vectors[1]));
    let Some(mut peers) = peers else { return Ok(()) };
    compare(&mut peers, &vectors[0])?;
    let ours: Vec<f64> = candidates.iter().map(|candidate| median(candidate.together.clone())).collect();
    let peer = |name: &str| peer_rates.get(name).map_or(f64::NAN, |rates| median(rates.clone()));
    for name in [F32, BF16, ONNX] {
        println!("figure encoder.peer.{name}.texts_per_s {:.1} texts/s", peer(name));
    }
    println!("figure encoder.f32.vs_sentence_transformers {:.3} ratio", ours[0] / peer(F32));
    println!("figure encoder.bf16.vs_sentence_transformers {:.3} ratio", ours[1] / peer(BF16));
    println!("figure encoder.best.vs_onnx {:.3} ratio", ours[0].max(ours[1]) / peer(ONNX));
    Ok(())
}

impl Candidate {
    fn round(&mut self, tokens: &[Tokens], encoders: usize) -> Result<()> {
        let rate = |took: f64| tokens.len() as f64 / took;
        self.alone.push(rate(encode_all(&self.encoder, 1, tokens, self.budget)?.0));
        let (took, padding) = encode_all(&self.encoder, encoders, tokens, self.budget)?;
        self.together.push(rate(took));
        self.padding = padding;
        self.matrix.push(matrix_rate(self.dtype));
        Ok(())
    }

    fn print(&self, flop_per_text: f64, query: &Tokens) -> Result<()> {
        let Candidate { dtype, together, alone, matrix, .. } = self;
        let (rate, matrix) = (median(together.clone()), median(matrix.clone()));
        println!("figure encoder.{dtype}.texts_per_s {rate:.1} texts/s");
        println!("figure encoder.{dtype}.one_thread.texts_per_s {:.1} texts/s", median(alone.clone()));
        println!("figure encoder.{dtype}.matrix_rate {:.0} GFLOP/s", matrix / 1e9);
        println!("figure encoder.{dtype}.matmul_share {:.3} share", rate * flop_per_text / matrix);
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner).share_weights();
        let mut took = Vec::new();
        for _ in 0..LONE_QUERIES {
            let start = Instant::now();
            encoder.encode(&[query])?;
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("figure encoder.{dtype}.one_text_ms {:.2} ms", median(took));
        Ok(())
    }

    /// In the order of the texts.
    fn vectors(&self, tokens: &[Tokens]) -> std::result::Result<Vec<Arc<[f32]>>, EncodeError> {
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner).share_weights();
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&nth| tokens[nth].len());
        let mut vectors: Vec<Arc<[f32]>> = vec![Arc::from([]); tokens.len()];
        for part in order.chunks(16) {
            let pass: Vec<&Tokens> = part.iter().map(|&nth| &tokens[nth]).collect();
            for (&nth, vector) in part.iter().zip(encoder.encode(&pass)?) {
                vectors[nth] = vector?;
            }
        }
        Ok(vectors)
    }
}

/// The service's way to load a model on the processor, in one number format.
pub fn options(files: &ModelFiles, dtype: Dtype, threads: NonZeroUsize) -> EncoderOptions {
    EncoderOptions {
        files: files.clone(),
        device: Device::Cpu,
        dtype: DtypeChoice::Only(dtype),
        threads: Some(threads),
        batch_texts: true,
        tuning: None,
    }
}

/// Both sides have to do the same work.
fn compare(peers: &mut Peers, ours: &[Arc<[f32]>]) -> Result<()> {
    for peer in [F32, BF16, ONNX] {
        let theirs = peers.vectors(peer, COMPARED)?;
        let cosines = ours.iter().zip(&theirs).map(|(a, b)| cosine(a, b));
        let lowest = cosines.fold(f32::INFINITY, f32::min);
        println!("{peer}: lowest cosine with our f32 {lowest:.6}");
        if peer != BF16 && (lowest.is_nan() || lowest < SAME) {
            return Err(format!("{peer} gives other vectors: expected {SAME}, received {lowest}").into());
        }
    }
    Ok(())
}

/// Of the ten nearest neighbours of a text by the first vectors, the part that the second ones find too; the mean.
fn overlap(first: &[Arc<[f32]>], second: &[Arc<[f32]>]) -> f64 {
    let shared = (0..first.len()).map(|text| {
        let found = nearest(second, text);
        nearest(first, text).iter().filter(|neighbour| found.contains(neighbour)).count()
    });
    let wanted = NEIGHBOURS.min(first.len().saturating_sub(1)) * first.len();
    shared.sum::<usize>() as f64 / wanted as f64
}

fn nearest(vectors: &[Arc<[f32]>], text: usize) -> Vec<usize> {
    let others = (0..vectors.len()).filter(|&other| other != text);
    let mut likeness: Vec<(f32, usize)> =
        others.map(|other| (cosine(&vectors[text], &vectors[other]), other)).collect();
    likeness.sort_by(|a, b| b.0.total_cmp(&a.0));
    likeness.into_iter().take(NEIGHBOURS).map(|(_, other)| other).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}
