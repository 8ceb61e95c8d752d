//! Whether memory grows: a hundred thousand texts of all lengths through one encoder, resident memory at even steps.

use crate::service::Result;
use lnsp_ingest::encoder::plan::choose;
use lnsp_ingest::encoder::{
    Device, DtypeChoice, Encoder, EncoderOptions, ModelFiles, Parallelism, Tokenizer, Tokens, load,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs;

const TEXTS: usize = 100_000;
const STEP: usize = 10_000;
/// Texts after which the encoder is warm: growth counts from here.
const WARM: usize = 20_000;
/// The shortest text, in characters; the longest are as they are in the corpus.
const SHORTEST: usize = 8;
/// Texts among which a pass is chosen, different ones each time.
const WINDOW: usize = 256;

/// Prints by which share resident memory has grown at its largest, over that of the warm encoder. The number format is
/// the one that a service takes by itself; `LNSP_DTYPE` names another.
pub fn figures(files: &ModelFiles, corpus: &[String]) -> Result<()> {
    let tokenizer = Tokenizer::load(files)?;
    let dtype = std::env::var("LNSP_DTYPE").map_or(Ok(DtypeChoice::Auto), |name| name.parse())?;
    let (mut encoder, calibration) = load(&EncoderOptions {
        files: files.clone(),
        device: Device::Cpu,
        dtype,
        threads: Some(Parallelism::on(Device::Cpu).threads),
        batch_texts: true,
        tuning: None,
    })?;
    println!("{calibration}");
    let mut random = StdRng::seed_from_u64(20);
    let mut texts = corpus.iter().cycle();
    let (mut done, mut warm, mut largest) = (0, None, 0.0f64);
    let mut waiting: Vec<Tokens> = Vec::new();
    while done < TEXTS {
        for text in texts.by_ref().take(WINDOW - waiting.len()) {
            // Most texts are short ones, so that all of them take minutes.
            let length = SHORTEST + (random.random::<f64>().powi(3) * text.chars().count() as f64) as usize;
            waiting.push(tokenizer.tokenize(&text.chars().take(length).collect::<String>())?);
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
            println!("after {done} texts: {now:.1} MiB resident");
            if done >= WARM {
                warm.get_or_insert(now);
                largest = largest.max(now);
            }
        }
    }
    let warm = warm.ok_or("no step was reached")?;
    println!("figure encoder.soak_growth {:.4} share", largest / warm - 1.0);
    Ok(())
}

fn resident_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in the status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
