//! Finds what `scripts/setup` made: the libtorch whose folder goes into the rpath, and the classifier artefact
//! that is built into the binary.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=.deps/classifier/tmd-2.bin");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());

    let artefact = root.join(".deps/classifier/tmd-2.bin");
    assert!(
        artefact.exists(),
        "the classifier artefact is missing: run scripts/setup once, then build again"
    );
    println!("cargo:rustc-env=LNSP_CLASSIFIER={}", artefact.display());

    // torch-sys says which libtorch it found. That one finds its own neighbours; only the way to it has to be
    // told. The relative entries keep a moved checkout running: binaries, and tests one folder deeper.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let libtorch =
        env::var_os("DEP_TCH_LIBTORCH_LIB").map_or_else(|| root.join(".deps/libtorch/lib"), PathBuf::from);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.display());
    println!("cargo:rustc-env=LNSP_LIBTORCH={}", version(&libtorch));
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../.deps/libtorch/lib");
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../../.deps/libtorch/lib");
        if libtorch.join("libtorch_cuda.so").exists() {
            // Nothing names a symbol of it, so the linker would leave it out, and with it the GPU.
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
        }
    }
}

/// `2.13.0`, from the header that says so.
fn version(libtorch: &Path) -> String {
    let header = libtorch.join("../include/torch/headeronly/version.h");
    let text = std::fs::read_to_string(header).unwrap_or_default();
    let number = |part: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("#define TORCH_VERSION_{part} ")));
        line.map_or("?", str::trim).to_owned()
    };
    ["MAJOR", "MINOR", "PATCH"].map(number).join(".")
}
