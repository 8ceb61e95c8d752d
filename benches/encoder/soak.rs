//! Whether memory grows: a hundred thousand texts through one encoder in bf16, resident memory at even steps.

use crate::measure::options;
use crate::service::Result;
use lnsp_ingest::encoder::plan::choose;
use lnsp_ingest::encoder::{Device, Dtype, Encoder, ModelFiles, Parallelism, Tokenizer, Tokens, load};
use std::fs;

const TEXTS: usize = 100_000;
const STEP: usize = 10_000;
/// Characters of a text: short ones, so that it takes minutes.
const LENGTH: usize = 48;
/// Texts among which a pass is chosen, different ones each time.
const WINDOW: usize = 256;

/// Prints resident memory at the end over that after the first tenth.
pub fn figures(files: &ModelFiles, corpus: &[String]) -> Result<()> {
    let tokenizer = Tokenizer::load(files)?;
    let (mut encoder, calibration) =
        load(&options(files, Dtype::Bf16, Parallelism::on(Device::Cpu).threads))?;
    let mut texts = corpus.iter().cycle();
    let (mut done, mut warm) = (0, None);
    let mut waiting: Vec<Tokens> = Vec::new();
    while done < TEXTS {
        for text in texts.by_ref().take(WINDOW - waiting.len()) {
            waiting.push(tokenizer.tokenize(&text.chars().take(LENGTH).collect::<String>())?);
        }
        let lengths: Vec<usize> = waiting.iter().map(Tokens::len).collect();
        let mut chosen = choose(&lengths, calibration.tuning.budget);
        for vector in encoder.encode(&chosen.iter().map(|&nth| &waiting[nth]).collect::<Vec<_>>())? {
            vector?;
        }
        let before = done / STEP;
        done += chosen.len();
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        for nth in chosen {
            waiting.remove(nth);
        }
        if done / STEP > before {
            let now = resident_mib()?;
            warm.get_or_insert(now);
            println!("after {done} texts: {now:.1} MiB resident");
        }
    }
    let warm = warm.ok_or("no step was reached")?;
    println!("figure encoder.rss_flat {:.4} ratio", resident_mib()? / warm);
    Ok(())
}

fn resident_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in the status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
