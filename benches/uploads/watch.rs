//! What the kernel says of a process.

use super::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PACE: Duration = Duration::from_millis(20);
/// For ten thousand connections and what else there is.
const DESCRIPTORS: u64 = 25_000;
/// A second has so many in what the kernel tells (USER_HZ).
const TICKS: u64 = 100;

/// Bytes of memory that no file stands behind.
pub fn anonymous_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Open files and sockets.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// What the processors have worked for it so far.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces; after it the twelfth and thirteenth field are user and system time.
    let fields = stat.rsplit(')').next().ok_or("no fields")?.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<std::result::Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// For this process and those it starts, as far as the system allows.
pub fn raise_descriptor_limit() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < DESCRIPTORS {
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard), hard)?;
    }
    Ok(())
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Looks at a process again and again, and remembers the most.
pub struct Peak {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    /// Of what `look` sees.
    pub fn of(look: impl Fn() -> Option<u64> + Send + 'static) -> Peak {
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (most.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while let (false, Some(now)) = (ended.load(Ordering::Relaxed), look()) {
                seen.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
        });
        Peak { most, over, thread: Some(thread) }
    }

    /// Of the memory of a process.
    pub fn of_memory(pid: u32) -> Peak {
        Peak::of(move || anonymous_memory(pid).ok())
    }

    /// The most that was seen, now that it is over.
    pub fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        self.most.load(Ordering::Relaxed)
    }
}
