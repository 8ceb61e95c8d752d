//! Figures of the encoder: texts per second in both number formats, padding, tokenizing.
//!
//! `cargo bench --bench encoder`; the corpus is the NDJSON file named by `LNSP_BENCH_CORPUS` (field `text`), else
//! the project's sample. Formats take turns, round by round, so that a busy neighbour slows both; medians. Printed for
//! one encoder on one thread, and for as many side by side as the service has.
//! `matrix_share` is the part of the machine's rate for one large matrix product (libtorch's own `matmul`, measured in
//! the same rounds) that arrives as encoded real tokens; above 1 means that our products are faster than that one.
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

use lnsp_ingest::encoder::plan::{self, Budget};
use lnsp_ingest::encoder::{
    Crew, Device, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, ModelFiles, TchEncoder,
    Tokenizer, Tokens, load, locate,
};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::Instant;
use std::{env, error, fs, thread};
use tch::{Kind, Tensor};

const ROUNDS: usize = 5;
const TEXTS: usize = 512;
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
    let shape = files.architecture.clone();
    let (hidden, intermediate) = (shape.hidden, shape.intermediate);
    let flop_per_token = (shape.layers * (8 * hidden * hidden + 4 * hidden * intermediate)) as f64;

    // On a thread of its own, as in the service.
    let measured =
        thread::spawn(move || measure(&files, &tokens)).join().map_err(|_| "the model thread failed")??;
    for Measured { dtype, texts_per_s, one_thread, matrix_flop_per_s, .. } in &measured {
        println!("figure encoder.{dtype}.texts_per_s {texts_per_s:.1} texts/s");
        println!("figure encoder.{dtype}.one_thread.texts_per_s {one_thread:.1} texts/s");
        println!("figure encoder.{dtype}.tokens_per_s {:.0} tokens/s", texts_per_s * mean);
        println!("figure encoder.{dtype}.matrix_rate {:.0} GFLOP/s", matrix_flop_per_s / 1e9);
        let share = texts_per_s * mean * flop_per_token / matrix_flop_per_s;
        println!("figure encoder.{dtype}.matrix_share {share:.3} share");
    }
    let padding = measured.first().map_or(0.0, |measured| measured.padding);
    println!("figure encoder.padding_ratio {padding:.4} share");
    println!("figure encoder.tokenize_us {tokenize_us:.1} us");
    println!("figure encoder.tokenize_longest_ms {longest_ms:.2} ms");
    Ok(())
}

struct Measured {
    dtype: Dtype,
    /// All encoders at once.
    texts_per_s: f64,
    /// One encoder on one thread.
    one_thread: f64,
    /// What this machine does with a large matrix product.
    matrix_flop_per_s: f64,
    padding: f64,
}

fn measure(files: &ModelFiles, tokens: &[Tokens]) -> Result<Vec<Measured>, EncodeError> {
    let crew = Crew::on(Device::Cpu);
    eprintln!("{crew}");
    let mut candidates = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (encoder, calibration) = load(&options(files, dtype, crew))?;
        eprintln!("{dtype}: {calibration}");
        let budget = calibration.tuning.budget;
        candidates.push((Mutex::new(encoder), dtype, budget, [const { Vec::new() }; 3], 0.0));
    }
    for _ in 0..ROUNDS {
        for (first, dtype, budget, [all, alone, matrix], padding) in &mut candidates {
            let rate = |(took, padding): (f64, f64)| (tokens.len() as f64 / took, padding);
            alone.push(rate(encode_all(first, 1, tokens, *budget)?).0);
            let (rate, padded) = rate(encode_all(first, crew.encoders.get(), tokens, *budget)?);
            all.push(rate);
            *padding = padded;
            matrix.push(matrix_rate(*dtype));
        }
    }
    let measured = candidates.into_iter().map(|(_, dtype, _, [all, alone, matrix], padding)| Measured {
        dtype,
        texts_per_s: median(all),
        one_thread: median(alone),
        matrix_flop_per_s: median(matrix),
        padding,
    });
    Ok(measured.collect())
}

/// On all cores, whatever the encoders' threads are.
fn matrix_rate(dtype: Dtype) -> f64 {
    let threads = tch::get_num_threads();
    tch::set_num_threads(thread::available_parallelism().map_or(1, NonZeroUsize::get) as i32);
    let kind = match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    };
    let (rows, inner, columns) = (1024, 1536, 1536);
    let x = Tensor::ones([rows, inner], (kind, tch::Device::Cpu));
    let y = Tensor::ones([inner, columns], (kind, tch::Device::Cpu));
    let once = || {
        let start = Instant::now();
        let _product = x.matmul(&y);
        start.elapsed().as_secs_f64()
    };
    let took = median((0..20).map(|_| once()).collect());
    tch::set_num_threads(threads);
    (2 * rows * inner * columns) as f64 / took
}

fn options(files: &ModelFiles, dtype: Dtype, crew: Crew) -> EncoderOptions {
    EncoderOptions {
        files: files.clone(),
        device: Device::Cpu,
        dtype: DtypeChoice::Only(dtype),
        threads: Some(crew.threads),
        batch_texts: true,
        tuning: None,
    }
}

/// Texts as they wait for the encoders of the service under load, and what was made of them.
struct Queue<'a> {
    coming: std::slice::Iter<'a, Tokens>,
    waiting: VecDeque<&'a Tokens>,
    running: usize,
    real: usize,
    computed: usize,
}

impl<'a> Queue<'a> {
    fn new(tokens: &'a [Tokens]) -> Mutex<Self> {
        let mut coming = tokens.iter();
        let waiting = coming.by_ref().take(WINDOW).collect();
        Mutex::new(Queue { coming, waiting, running: 0, real: 0, computed: 0 })
    }

    /// The next pass for one of so many encoders, which has done the last one, of `done` tokens.
    fn pull(&mut self, budget: Budget, encoders: usize, done: usize) -> Vec<&'a Tokens> {
        self.running -= done;
        let lengths: Vec<usize> = self.waiting.iter().map(|text| text.len()).collect();
        let mut chosen = plan::choose(&lengths, budget.share(&lengths, self.running, encoders));
        let longest = chosen.iter().map(|&text| lengths[text]).max().unwrap_or_default();
        self.computed += chosen.len() * longest;
        chosen.sort_unstable();
        let mut pass: Vec<&Tokens> =
            chosen.iter().rev().filter_map(|&text| self.waiting.remove(text)).collect();
        pass.sort_by_key(|text| text.len());
        self.real += length(&pass);
        self.running += length(&pass);
        self.waiting.extend(self.coming.by_ref().take(pass.len()));
        pass
    }
}

fn length(pass: &[&Tokens]) -> usize {
    pass.iter().map(|text| text.len()).sum()
}

/// Encodes everything with so many encoders at once; gives the time it took, in seconds, and the share of padding.
fn encode_all(
    first: &Mutex<TchEncoder>,
    encoders: usize,
    tokens: &[Tokens],
    budget: Budget,
) -> Result<(f64, f64), EncodeError> {
    let queue = Queue::new(tokens);
    let ready = Barrier::new(encoders);
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<(Instant, Instant), EncodeError> {
        let mut encoder = first.lock().unwrap_or_else(PoisonError::into_inner).twin();
        // The first pass on a thread makes libtorch's state for it.
        let warm = encoder.encode(&tokens.iter().take(8).collect::<Vec<_>>());
        ready.wait();
        warm?;
        let start = Instant::now();
        let mut done = 0;
        loop {
            let pass = lock().pull(budget, encoders, done);
            if pass.is_empty() {
                return Ok((start, Instant::now()));
            }
            for vector in encoder.encode(&pass)? {
                vector?;
            }
            done = length(&pass);
        }
    };
    let times = thread::scope(|scope| {
        let threads: Vec<_> = (0..encoders).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Result<Vec<_>, _>>()
    })?;
    let start = times.iter().map(|(start, _)| start).min();
    let end = times.iter().map(|(_, end)| end).max();
    let took = start.zip(end).map_or(f64::NAN, |(start, end)| end.duration_since(*start).as_secs_f64());
    let queue = lock();
    Ok((took, 1.0 - queue.real as f64 / queue.computed as f64))
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
