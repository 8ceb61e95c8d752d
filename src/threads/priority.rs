//! The priority of a thread.

/// The niceness of a thread whose work may wait: beside one of the default priority it gets a tenth of a processor, and
/// all of it while no other thread wants it.
#[cfg(target_os = "linux")]
const NICE: libc::c_int = 10;

/// Lowers the priority of the calling thread. Without effect where threads have none of their own.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe interface to setpriority in our dependencies")]
pub fn lower_priority() {
    // SAFETY: takes no pointer. On Linux, process 0 is the calling thread (setpriority(2), C library/kernel differences).
    // It cannot fail: a thread may always lower its own priority.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Lowers the priority of the calling thread. Without effect where threads have none of their own.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The niceness in `/proc/thread-self/stat`: the 19th field, the 17th after the name in brackets.
    fn niceness() -> Option<i32> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok()
    }

    #[test]
    fn only_the_calling_thread_is_lowered() {
        let before = niceness().unwrap();
        let lowered = std::thread::spawn(|| {
            lower_priority();
            niceness()
        });
        assert_eq!((lowered.join().unwrap(), niceness()), (Some(NICE.max(before)), Some(before)));
    }
}
