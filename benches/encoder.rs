//! Figures of the encoder: texts per second in both number formats, padding, tokenizing.
//!
//! `cargo bench --bench encoder`; the corpus is the NDJSON file named by `LNSP_BENCH_CORPUS` (field `text`), else
//! the project's sample. Formats take turns, round by round, so that a busy neighbour slows both; medians.

use lnsp_ingest::encoder::plan::{self, Budget};
use lnsp_ingest::encoder::{
    Calibration, DeviceChoice, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, ModelFiles,
    TchEncoder, Tokenizer, Tokens, load, locate,
};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, error, fs};

const ROUNDS: usize = 7;
const TEXTS: usize = 768;
/// As many texts as the service lets wait for the model.
const WINDOW: usize = 512;

fn main() -> Result<(), Box<dyn error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let models: Vec<PathBuf> = root.ancestors().map(|folder| folder.join(".deps/models")).collect();
    let files = locate("all-minilm-l6-v2", &models)?;
    let texts = corpus(&root.join("tests/data/sample.ndjson"))?;

    let tokenizer = Tokenizer::load(&files)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for text in &texts {
            tokenizer.tokenize(text)?;
        }
        rounds.push(start.elapsed().as_secs_f64() * 1e6 / texts.len() as f64);
    }
    let tokenize_us = median(rounds);
    let longest = "The quick brown fox jumps over the lazy dog. ".repeat(1456);
    let start = Instant::now();
    tokenizer.tokenize(&longest)?;
    let longest_ms = start.elapsed().as_secs_f64() * 1e3;

    let tokens: Vec<Tokens> = texts.iter().map(|text| tokenizer.tokenize(text)).collect::<Result<_, _>>()?;
    let mean = tokens.iter().map(Tokens::len).sum::<usize>() as f64 / tokens.len() as f64;
    eprintln!("{} texts of {mean:.1} tokens", tokens.len());
    let mut candidates = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (encoder, calibration) = open(&files, dtype)?;
        eprintln!("{dtype}: {calibration}");
        candidates.push((encoder, calibration, Vec::new()));
    }
    let mut padding = Vec::new();
    for _ in 0..ROUNDS {
        for (encoder, calibration, rates) in &mut candidates {
            let start = Instant::now();
            padding.push(encode_all(encoder, &tokens, calibration.tuning.budget)?);
            rates.push(tokens.len() as f64 / start.elapsed().as_secs_f64());
        }
    }

    for (encoder, _, rates) in candidates {
        let rate = median(rates);
        println!("figure encoder.{}.texts_per_s {rate:.1} texts/s", encoder.dtype());
        println!("figure encoder.{}.tokens_per_s {:.0} tokens/s", encoder.dtype(), rate * mean);
    }
    println!("figure encoder.padding_ratio {:.4} share", median(padding));
    println!("figure encoder.tokenize_us {tokenize_us:.1} us");
    println!("figure encoder.tokenize_longest_ms {longest_ms:.2} ms");
    Ok(())
}

fn open(files: &ModelFiles, dtype: Dtype) -> Result<(TchEncoder, Calibration), EncodeError> {
    load(&EncoderOptions {
        files: files.clone(),
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Only(dtype),
        threads: None,
        batch_texts: true,
        tuning: None,
    })
}

/// Encodes everything as the service would under load, and gives the share of padding.
fn encode_all(encoder: &mut TchEncoder, tokens: &[Tokens], budget: Budget) -> Result<f64, EncodeError> {
    let mut coming = tokens.iter();
    let mut waiting: VecDeque<&Tokens> = coming.by_ref().take(WINDOW).collect();
    let (mut real, mut computed) = (0, 0);
    while !waiting.is_empty() {
        let lengths: Vec<usize> = waiting.iter().map(|text| text.len()).collect();
        let mut chosen = plan::choose(&lengths, budget);
        let longest = chosen.iter().map(|&text| lengths[text]).max().unwrap_or_default();
        computed += chosen.len() * longest;
        chosen.sort_unstable();
        let mut batch: Vec<&Tokens> = chosen.iter().rev().filter_map(|&text| waiting.remove(text)).collect();
        batch.sort_by_key(|text| text.len());
        real += batch.iter().map(|text| text.len()).sum::<usize>();
        for vector in encoder.encode(&batch)? {
            vector?;
        }
        waiting.extend(coming.by_ref().take(batch.len()));
    }
    Ok(1.0 - real as f64 / computed as f64)
}

fn corpus(sample: &Path) -> Result<Vec<String>, Box<dyn error::Error>> {
    let path = env::var_os("LNSP_BENCH_CORPUS").map_or_else(|| sample.to_owned(), PathBuf::from);
    let text = |line: &str| -> Result<String, Box<dyn error::Error>> {
        let line: serde_json::Value = serde_json::from_str(line)?;
        Ok(line["text"].as_str().ok_or("a line of the corpus has no field `text`")?.to_owned())
    };
    fs::read_to_string(path)?.lines().take(TEXTS).map(text).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
