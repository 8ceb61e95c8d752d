//! Figures of the encoder: texts per second in both number formats and beside other encoders, padding, tokenizing.
//!
//! `cargo bench --bench encoder [queries | soak]`; the corpus is the NDJSON file named by `LNSP_BENCH_CORPUS` (field
//! `text`), else the project's sample; of it as many texts as a large model allows. `LNSP_BENCH_MODEL` is another
//! model's folder or name, `LNSP_BENCH_ROUNDS` the rounds (5). Formats and, after `scripts/peers`, other encoders take
//! turns, round by round, so that a busy neighbour slows all; medians. Printed for one encoder on one thread, and for
//! as many side by side as the service has. `soak` looks whether memory grows, `queries` how long a query waits during
//! an ingest. `matmul_share` is the part of the machine's rate for one large matrix product (libtorch's own `matmul`,
//! measured in the same rounds) that arrives as encoded real tokens; above 1 means that our products are faster than
//! that one.
//!
//! Ideas, what each should have moved, and what it did (MiniLM, 55 tokens a text, 2 cores with AVX-512 and bf16;
//! per core, in processor time, because the machine was shared):
//!
//! - f32 products by oneDNN with packed weights instead of MKL: products are 80 % of a pass. 98 -> 112 GFLOP/s, 65 ->
//!   73 texts/s. They are reached through TorchScript (`mkldnn::_linear_pointwise`); `mkldnn_linear` on opaque tensors
//!   was no faster, and needs a copy on each side.
//! - Weights packed for bf16, activation and residual inside the product: 215 -> 235 GFLOP/s, 120 -> 128 texts/s. GELU
//!   still costs 4 % of a pass; its tanh form is no cheaper.
//! - bf16 attention in oneDNN steps: libtorch's fused attention took 3.1 ms of a 22 ms layer (MKL has no bf16
//!   product for this processor and converts), the steps take 1.7 ms. Softmax decides it: 1.9 ms by libtorch,
//!   0.5 ms by oneDNN with both copies. In f32 the steps are no faster than fused attention, which stays.
//! - 64 kernels kept of each kind instead of 1,024 (`soak`: 100,000 texts of all lengths): resident memory 1,010 -> 329
//!   MiB, growth after the first 20,000 texts 35 % -> 0; processor time 257 -> 259 s. Bounding oneDNN's own cache alone
//!   does nothing: libtorch has another one.
//! - Freed memory kept (see `tch_encoder`): attention in steps on long texts 10 -> 3 ms; before, most of it went into
//!   page faults.
//! - Few numbers of rows (16 apart up to 256, then 64), all seen in a warm-up: oneDNN prepares its kernels for each new
//!   number of rows, on a processor with AMX for as long as the pass takes (16 x 55 tokens: 54 ms, then 29). This bench
//!   repeats its passes and cannot show it (filling up costs it 3 %); a service that has just started does: 553 -> 731
//!   chunks/s over the first 1,626.
//! - Size of a pass, in tokens: 1,024 and 2,048 are best; 512 is 4 % slower, 4,096 12 %, 8,192 27 %.
//! - One encoder per core with one thread each, against one encoder on both cores: equal or 10 % faster on a quiet
//!   machine, two to three times as fast when something else runs, because the threads of one pass wait for each
//!   other at each step.
//! - `ATEN_CPU_CAPABILITY=avx512` (tried on attention): nothing. `OMP_WAIT_POLICY=passive`, `GOMP_SPINCOUNT`: nothing
//!   on a quiet machine, worse on a busy one.
//!
//! T5 (base size, random weights), by the share of the matrix rate that arrives:
//!
//! - Norms without weights, which are multiplied into the product behind them, so that a norm is one pass that reads
//!   and one that writes; residuals and activations inside the products, as for BERT; distances added once for all
//!   layers together with the mask. f32 0.90, bf16 0.78; all-MiniLM-L6-v2 on the same machine (Zen 4): 0.86 and 0.77.
//! - That machine multiplies as fast by MKL as by oneDNN (183 GFLOP/s in f32, 430 in bf16, two cores), so every encoder
//!   is close to its limit there. sentence-transformers reaches 0.57 of it with MiniLM and 0.78 with T5 in f32: no
//!   other can be more than 1.75 and 1.28 times as fast. A processor whose f32 the defaults leave idle shows larger
//!   ratios.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod measure;
mod parallelism;
mod peers;
mod queries;
#[allow(dead_code, reason = "the other half is for the bench of the pipeline")]
#[path = "../pipeline/service.rs"]
mod service;
mod soak;
mod work;

use lnsp_ingest::encoder::{ModelFiles, Tokenizer, Tokens, bound_kernel_caches, locate};
use measure::measure;
use peers::Peers;
use service::Result;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, thread};

/// The part of the corpus that a round encodes: a thousand paragraphs for a small model, a hundred for one of 110
/// million weights.
const ROUND_FLOP: f64 = 1.2e12;
const FEWEST_TEXTS: usize = 64;

fn main() -> Result<()> {
    bound_kernel_caches();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = env::var("LNSP_BENCH_MODEL").unwrap_or_else(|_| "all-minilm-l6-v2".to_owned());
    let models: Vec<PathBuf> = root.ancestors().map(|folder| folder.join(".deps/models")).collect();
    let files = locate(&model, &models)?;
    let corpus = corpus(&root.join("tests/data/sample.ndjson"))?;
    // Cargo adds flags of its own.
    match env::args().skip(1).find(|argument| !argument.starts_with('-')).as_deref() {
        None => speed(&files, corpus),
        Some("soak") => on_a_thread(move || soak::figures(&files, &corpus)),
        Some("queries") => queries::figures(&files, &corpus),
        Some(other) => Err(format!("expected soak, queries or nothing, received {other}").into()),
    }
}

/// Models live on threads of their own, as in the service.
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let work = move || work().map_err(|error| error.to_string());
    Ok(thread::spawn(work).join().map_err(|_| "the model's thread failed")??)
}

fn speed(files: &ModelFiles, mut texts: Vec<String>) -> Result<()> {
    let tokenizer = Tokenizer::load(files)?;
    let mut tokens = Vec::new();
    let (mut flop, limit) = (0.0, ROUND_FLOP);
    for text in &texts {
        if flop > limit && tokens.len() >= FEWEST_TEXTS {
            break;
        }
        tokens.push(tokenizer.tokenize(text)?);
        flop += tokens.last().map_or(0.0, |text| work::flop(&files.architecture, text.len()));
    }
    texts.truncate(tokens.len());
    let mean = tokens.iter().map(Tokens::len).sum::<usize>() as f64 / tokens.len() as f64;
    println!("{}: {} texts of {mean:.1} tokens, {}", files.name, tokens.len(), files.architecture);
    tokenizing(&tokenizer, &texts)?;

    let query = tokenizer.tokenize("When was the old stone bridge over the river rebuilt?")?;
    let peers = Peers::start(files, &texts)?;
    let (files, rounds) = (files.clone(), rounds());
    on_a_thread(move || measure(&files, &tokens, &query, peers, rounds))
}

fn tokenizing(tokenizer: &Tokenizer, texts: &[String]) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..rounds() {
        let start = Instant::now();
        for text in texts {
            tokenizer.tokenize(text)?;
        }
        took.push(start.elapsed().as_secs_f64() * 1e6 / texts.len() as f64);
    }
    let longest = "The quick brown fox jumps over the lazy dog. ".repeat(1456);
    let start = Instant::now();
    tokenizer.tokenize(&longest)?;
    let longest_ms = start.elapsed().as_secs_f64() * 1e3;
    println!("figure encoder.tokenize_us {:.1} us", median(took));
    println!("figure encoder.tokenize_longest_ms {longest_ms:.2} ms");
    Ok(())
}

fn rounds() -> usize {
    env::var("LNSP_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

fn corpus(sample: &Path) -> Result<Vec<String>> {
    let path = env::var_os("LNSP_BENCH_CORPUS").map_or_else(|| sample.to_owned(), PathBuf::from);
    let text = |line: &str| -> Result<String> {
        let line: serde_json::Value = serde_json::from_str(line)?;
        Ok(line["text"].as_str().ok_or("a line of the corpus has no field `text`")?.to_owned())
    };
    fs::read_to_string(path)?.lines().filter(|line| !line.trim().is_empty()).map(text).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
