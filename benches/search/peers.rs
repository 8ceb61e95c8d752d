//! hnswlib, usearch and hannoy on the same vectors, in a process of their own: see `scripts/search_peers.py`. It is idle
//! while we search.

use super::corpus::{Corpus, bytes};
use super::numbers::{Times, recall};
use super::service::Result;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Widths of a search, from narrow to wide. The first one that finds as much as we do is compared.
const WIDTHS: [usize; 8] = [10, 16, 24, 40, 64, 100, 160, 400];

pub struct Peers {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    names: Vec<String>,
    _vectors: tempfile::TempDir,
}

impl Peers {
    /// Gives them the vectors; `None` where there are none.
    pub fn start(corpus: &Corpus) -> Result<Option<Peers>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join(".deps/search-peers");
        if !folder.join(".complete").is_file() {
            println!("no peers to compare with: scripts/search_peers gets them");
            return Ok(None);
        }
        let vectors = tempfile::tempdir()?;
        for (name, rows) in [("rows", &corpus.rows), ("queries", &corpus.queries)] {
            std::fs::write(
                vectors.path().join(name),
                rows.iter().flat_map(|row| bytes(row)).collect::<Vec<u8>>(),
            )?;
        }
        let mut child = Command::new(folder.join("bin/python"))
            .arg("-B")
            .arg(root.join("scripts/search_peers.py"))
            .arg(vectors.path())
            .arg(corpus.dims.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take().ok_or("the peers have no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("the peers have no output")?);
        let mut peers = Peers { child, requests, answers, names: Vec::new(), _vectors: vectors };
        for built in peers.ask(&json!({"build": true}))?.as_array().into_iter().flatten() {
            println!(
                "{} built its index in {:.1} s",
                built["name"],
                built["seconds"].as_f64().unwrap_or(0.0)
            );
            peers.names.extend(built["name"].as_str().map(str::to_owned));
        }
        Ok(Some(peers))
    }

    /// Their names, with room for a recall and times.
    pub fn names(&self) -> Vec<(String, f64, Times)> {
        self.names.iter().map(|name| (name.clone(), 0.0, Times::default())).collect()
    }

    /// The median time of a search that finds at least as much as `least`, or of the widest one; and what it finds.
    pub fn round(&mut self, name: &str, least: f64, wanted: &[Vec<u32>]) -> Result<(Duration, f64)> {
        for width in WIDTHS {
            let mut answer = self.ask(&json!({"search": name, "width": width}))?;
            let found: Vec<Vec<u32>> = serde_json::from_value(answer["found"].take())?;
            let found = recall(&found, wanted);
            if found >= least || width == WIDTHS[WIDTHS.len() - 1] {
                let median = answer["median_s"].as_f64().ok_or("the peers gave no time")?;
                return Ok((Duration::from_secs_f64(median), found));
            }
        }
        Err("no width".into())
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
