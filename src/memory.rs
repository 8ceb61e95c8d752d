//! Memory that is free in this process and that the system could use.

/// Returns freed memory to the system. glibc keeps what lies between blocks that are in use until it is asked. Takes
/// milliseconds, and the locks of the allocator one after the other: call it from a blocking thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "there is no safe interface to malloc_trim")]
pub fn release_freed() {
    // SAFETY: takes no pointer, and only returns unallocated pages to the system.
    unsafe { libc::malloc_trim(0) };
}

/// Returns freed memory to the system. Other allocators do that by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_freed() {}
