//! The real llama.cpp server with a model of random weights, which `scripts/llm_server` installs. Also used by the bench
//! of the language model, so it knows nothing of the tests.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The name of its model.
pub const MODEL: &str = "tiny-random";

/// A running server. It ends when dropped, and with the process that started it.
pub struct LlamaServer {
    /// `http://127.0.0.1:port`
    pub url: String,
    child: Child,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/llm-server")
}

/// `scripts/llm_server.py`, without arguments.
pub fn script() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/llm_server.py");
    let mut command = Command::new(folder().join("bin/python"));
    command.arg("-B").arg(script);
    command
}

/// Whether it is installed.
pub fn is_installed() -> bool {
    folder().join(".complete").exists()
}

impl LlamaServer {
    /// Starts a server on a free port; returns when it accepts connections. `flags` as in `scripts/llm_server.py serve`.
    pub fn start(flags: &[&str]) -> LlamaServer {
        let mut command = script();
        command.args(["serve", "--until-stdin-closes"]).args(flags);
        // It prints a traceback for each request that it refuses.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("LLM server ready on ");
        let url = url.unwrap_or_else(|| panic!("the LLM server said '{line}'")).to_owned();
        LlamaServer { url, child }
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // Its answers are of no use any more; what it is busy with need not end first.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
