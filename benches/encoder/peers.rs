//! Other encoders on the same texts, in a process of their own: see `scripts/peers.py`. It is idle while we compute.

use crate::service::Result;
use lnsp_ingest::encoder::ModelFiles;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::available_parallelism;

pub const F32: &str = "sentence_transformers.f32";
pub const BF16: &str = "sentence_transformers.bf16";
pub const ONNX: &str = "onnx.f32";

/// The process; it ends when it is dropped.
pub struct Peers {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    /// Loads the model there, and lets each peer find its best batch size; `None` where there are no peers.
    pub fn start(files: &ModelFiles, texts: &[String]) -> Result<Option<Peers>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join(".deps/peers");
        if !folder.join(".complete").is_file() {
            println!("no peers to compare with: scripts/peers gets them (0.7 GB)");
            return Ok(None);
        }
        let mut child = Command::new(folder.join("bin/python"))
            .arg("-B")
            .arg(root.join("scripts/peers.py"))
            .arg("--model")
            .arg(&files.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take().ok_or("the peers have no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("the peers have no output")?);
        let mut peers = Peers { child, requests, answers };
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        let answer = peers.ask(&json!({"texts": texts, "threads": threads}))?;
        println!("peers on {threads} threads; best batch sizes {}", answer["batches"]);
        Ok(Some(peers))
    }

    /// Seconds for all texts.
    pub fn round(&mut self, peer: &str) -> Result<f64> {
        let answer = self.ask(&json!({"round": peer}))?;
        Ok(answer["seconds"].as_f64().ok_or("the peers gave no time")?)
    }

    /// The vectors of the first texts.
    pub fn vectors(&mut self, peer: &str, texts: usize) -> Result<Vec<Vec<f32>>> {
        let mut answer = self.ask(&json!({"vectors": peer, "texts": texts}))?;
        Ok(serde_json::from_value(answer["vectors"].take())?)
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err("the peers have ended; what they said stands above".into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // One that has ended by itself needs no end.
        if self.child.kill().is_ok() {
            self.child.wait().map_or_else(|error| eprintln!("the peers: {error}"), drop);
        }
    }
}
