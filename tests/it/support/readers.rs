//! Python with numpy and pyarrow, which reads exported files as their users do: `scripts/readers`.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    crate::root().join(".deps/readers")
}

/// Whether they are installed. Where they are not, the test says that it is left out, past the capturing of its output.
pub fn installed(test: &str) -> bool {
    let there = folder().join(".complete").exists();
    if !there {
        let notice = format!("\nskipped: {test} (numpy and pyarrow are not installed; scripts/readers)\n");
        std::io::stdout().write_all(notice.as_bytes()).unwrap();
    }
    there
}

/// What is in a file.
pub fn read(file: &Path) -> Value {
    let script = crate::root().join("scripts/readers.py");
    let output = Command::new(folder().join("bin/python")).arg("-B").arg(script).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
