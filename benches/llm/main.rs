//! What the parts of a call to a language model cost, on a real llama.cpp server with a model of random weights.
//!
//! `cargo bench --bench llm`; `LNSP_BENCH_ROUNDS` the interleaved pairs (100). `scripts/llm_server` installs the server.
//! Requests are those that the service sends, recorded from it, and changed only in what is compared. Each side has a
//! server of its own, because a server keeps the prefix of its last prompt alone. Figures are medians.
//!
//! Whole calls are measured with the seed's ten sentences and with the chunks of the corpus. A text has a token a byte
//! here, so the ten are about as long in tokens as usual chunks are for the models that people use.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "the server of the tests is started as in the tests")]

mod call;
#[path = "../../tests/it/support/llama_server.rs"]
mod llama_server;
mod recorded;
mod words;

use call::{Called, Caller, median};
use llama_server::LlamaServer;
use lnsp_ingest::cli::bench::SENTENCES;
use lnsp_ingest::llm::AnswerForm;
use recorded::{Recorded, corpus, recorded};
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The texts of the corpus that are asked about, one after the other.
const TEXTS: usize = 25;

fn main() -> Result<()> {
    if !llama_server::is_installed() {
        eprintln!("no LLM server is installed: run scripts/llm_server first");
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    let pairs = std::env::var("LNSP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let corpus = corpus(TEXTS)?;
    println!("{pairs} pairs");
    prefix_reuse(&recorded(AnswerForm::Names, &corpus).await?, pairs).await?;
    for (group, texts) in [("", SENTENCES.map(str::to_owned).to_vec()), (".corpus", corpus)] {
        let names = recorded(AnswerForm::Names, &texts).await?;
        let short = recorded(AnswerForm::Short, &texts).await?;
        short_answers(group, &names, &short, pairs).await?;
    }
    Ok(())
}

/// The constant part of the prompt first, as the service sends it, against the text first, as the old service did.
async fn prefix_reuse(names: &[Recorded], pairs: usize) -> Result<()> {
    let (constant_first, text_first) =
        (Caller::new(LlamaServer::start(&[]))?, Caller::new(LlamaServer::start(&[]))?);
    let (mut fast, mut slow) = (Vec::new(), Vec::new());
    // One token each: what is compared is the evaluation of the prompt.
    constant_first.ask(&names[0].first_token()).await?;
    text_first.ask(&names[0].text_first().first_token()).await?;
    for pair in 0..pairs {
        let asked = &names[(pair + 1) % names.len()];
        fast.push(constant_first.ask(&asked.first_token()).await?.ms);
        slow.push(text_first.ask(&asked.text_first().first_token()).await?.ms);
    }
    println!("figure llm.prompt_ms.prefix_cached {:.1} ms", median(&fast));
    println!("figure llm.prompt_ms.text_first {:.1} ms", median(&slow));
    let ratios: Vec<f64> = slow.iter().zip(&fast).map(|(slow, fast)| slow / fast).collect();
    println!("figure llm.prefix_reuse_speedup {:.2} x", median(&ratios));
    Ok(())
}

/// Whole calls that answer in names against whole calls that answer in short codes, the prefix cached on both sides.
/// The names of the figures end with `group`.
async fn short_answers(group: &str, names: &[Recorded], short: &[Recorded], pairs: usize) -> Result<()> {
    let server = || Caller::new(LlamaServer::start(&[]));
    let (by_name, by_code) = (server()?, server()?);
    by_name.ask(&names[0].first_token()).await?;
    by_code.ask(&short[0].first_token()).await?;
    let (mut name_calls, mut code_calls): (Vec<Called>, Vec<Called>) = (Vec::new(), Vec::new());
    let mut prompts = Vec::new();
    for pair in 0..pairs {
        let at = (pair + 1) % names.len();
        name_calls.push(by_name.ask(&names[at]).await?);
        code_calls.push(by_code.ask(&short[at]).await?);
        // Of another text than that of the next pair, which would be cached with it.
        prompts.push(by_name.ask(&names[(at + names.len() / 2) % names.len()].first_token()).await?.ms);
    }
    let of = |calls: &[Called], part: fn(&Called) -> f64| median(&calls.iter().map(part).collect::<Vec<_>>());
    let print =
        |figure: &str, value: f64, unit: &str| println!("figure llm.{figure}{group} {value:.2} {unit}");
    for (form, calls) in [("names", &name_calls), ("short", &code_calls)] {
        let (ms, tokens) = (of(calls, |call| call.ms), of(calls, |call| call.tokens));
        print(&format!("tokens_per_answer.{form}"), tokens, "tokens");
        print(&format!("skeleton_tokens.{form}"), of(calls, |call| call.skeleton_tokens()), "tokens");
        print(&format!("call_ms.{form}"), ms, "ms");
        let generating = (ms - median(&prompts)).max(0.0);
        print(&format!("generation_ms.{form}"), generating, "ms");
        print(&format!("ms_per_token.{form}"), generating / (tokens - 1.0).max(1.0), "ms");
        // The vocabulary of the server has single bytes only; people's models have words.
        if let Some(tokens) = words::median_tokens(calls.iter().map(|call| call.answer.as_str())) {
            print(&format!("word_tokens_per_answer.{form}"), tokens, "tokens");
        }
    }
    print("prompt_ms.names", median(&prompts), "ms");
    let ratios: Vec<f64> = name_calls.iter().zip(&code_calls).map(|(name, code)| name.ms / code.ms).collect();
    print("short_answer_speedup", median(&ratios), "x");
    Ok(())
}
