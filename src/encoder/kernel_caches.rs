//! How many kernels libtorch keeps.
//!
//! oneDNN compiles a kernel for each new shape of a product, and libtorch keeps the last 1,024 of them in each thread, in a
//! cache of its own beside that of oneDNN. Texts of all lengths have that many shapes: 100,000 of them left 1,010 MiB of
//! resident memory (MiniLM in bf16), and 64 kernels of each kind 329 MiB, in the same processor time.

use std::env;

/// The variables that bound the caches, each read once, at the first product.
const VARIABLES: [&str; 2] = ["LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"];
/// More than a layer needs for the shapes of some passes.
const KERNELS: &str = "64";

/// Bounds the caches of kernels, unless the environment does. To be called first in a program, before it has a second
/// thread.
#[expect(unsafe_code, reason = "libtorch takes these settings from the environment only")]
pub fn bound_kernel_caches() {
    for variable in VARIABLES {
        if env::var_os(variable).is_none() {
            // SAFETY: no other thread reads or writes the environment, as there is none yet.
            unsafe { env::set_var(variable, KERNELS) };
        }
    }
}
