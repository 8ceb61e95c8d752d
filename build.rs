//! Finds what `scripts/setup` made: the libtorch whose folder goes into the rpath, and the classifier artefact
//! that is built into the binary.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=.deps/classifier/tmd.bin");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());

    let artefact = root.join(".deps/classifier/tmd.bin");
    assert!(artefact.exists(), "the classifier artefact is missing: run scripts/setup once, then build again");
    println!("cargo:rustc-env=LNSP_CLASSIFIER={}", artefact.display());

    // libtorch_cpu finds its own neighbours; only the way to it has to be told. The second entry keeps a moved
    // checkout running, the first one any binary of this build wherever it is copied.
    let libtorch = env::var_os("LIBTORCH").map_or_else(|| root.join(".deps/libtorch"), PathBuf::from);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display());
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../.deps/libtorch/lib");
    }
}
