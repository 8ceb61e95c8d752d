//! Cores, memory and open files: what the machine has, and what a container leaves of it.

use super::check::{Check, mebibytes};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The service asks for as many as it is allowed; each connection is one.
const FEW_FILES: u64 = 4096;
/// What PostgreSQL and the system need beside the service.
const BESIDE: u64 = 1 << 30;

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub total: u64,
    /// Not in use; absent where the system does not say.
    pub available: Option<u64>,
    /// What the container may use.
    pub limit: Option<u64>,
}

impl Memory {
    /// What this process could have at most.
    pub fn usable(&self) -> u64 {
        self.limit.map_or(self.total, |limit| limit.min(self.total))
    }
}

/// What was found.
pub struct Machine {
    cores: usize,
    installed: Option<usize>,
    quota: Option<f64>,
    pub memory: Option<Memory>,
}

impl Machine {
    pub fn read() -> Machine {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = Path::new("/sys/fs/cgroup");
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let installed = processors.lines().filter(|line| line.starts_with("processor")).count();
        Machine {
            cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            installed: (installed > 0).then_some(installed),
            quota: cpu_quota(root, &cgroups),
            memory: read_memory(memory_limit(root, &cgroups)),
        }
    }

    /// `needed` is what the service takes with its model.
    pub fn checks(&self, needed: Option<u64>) -> Vec<Check> {
        let of = self.installed.map_or_else(String::new, |installed| format!(" of {installed}"));
        let quota = self.quota.map_or_else(
            || "no quota".to_owned(),
            |cores| format!("the container's quota is {cores:.1} cores"),
        );
        let finding = format!("{}{of} for this process; {quota}", self.cores);
        let cores = match self.cores {
            1 => Check::warning(
                "cores",
                finding,
                "the model, PostgreSQL and HTTP share one core; two or more keep answers quick",
            ),
            _ => Check::ok("cores", finding),
        };
        vec![cores, memory_check(self.memory, needed)]
    }

    pub fn open_files(&self) -> Check {
        let name = "open files";
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, hard)) if hard < FEW_FILES => Check::warning(
                name,
                format!("{soft}, at most {hard}"),
                format!(
                    "each connection is one: raise the hard limit to {FEW_FILES} or more (ulimit -Hn, LimitNOFILE)"
                ),
            ),
            Ok((soft, hard)) => Check::ok(name, format!("{soft}; the service raises it to {hard}")),
            Err(error) => Check::warning(name, format!("the limit is not told: {error}"), "see ulimit -n"),
        }
    }
}

fn memory_check(memory: Option<Memory>, needed: Option<u64>) -> Check {
    let name = "memory";
    let Some(memory) = memory else {
        return Check::warning(name, "the system does not tell", "see that a few GiB are free");
    };
    let mut finding = format!("{} in all", mebibytes(memory.total));
    if let Some(available) = memory.available {
        finding += &format!(", {} available", mebibytes(available));
    }
    if let Some(limit) = memory.limit {
        finding += &format!(", the container may use {}", mebibytes(limit));
    }
    let Some(needed) = needed else { return Check::ok(name, finding) };
    finding += &format!("; the service takes some {} with this model", mebibytes(needed));
    let room = memory.available.unwrap_or(memory.total).min(memory.usable());
    if memory.usable() < needed {
        let advice = "choose a smaller model (LNSP_EMBEDDING_MODEL), or give it more memory";
        Check::failure(name, finding, advice)
    } else if room < needed + BESIDE {
        let advice = "stop other programs, or choose a smaller model (LNSP_EMBEDDING_MODEL)";
        Check::warning(name, finding, advice)
    } else {
        Check::ok(name, finding)
    }
}

fn read_memory(limit: Option<u64>) -> Option<Memory> {
    if let Ok(text) = fs::read_to_string("/proc/meminfo") {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
        };
        return Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:"), limit });
    }
    let told = Command::new("sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    let total = String::from_utf8_lossy(&told.stdout).trim().parse().ok()?;
    Some(Memory { total, available: None, limit })
}

/// The folders that limit this process: its own group, and those above. `controller` has a tree of its own in the
/// first version of cgroups; in the second there is one for all.
fn groups(root: &Path, cgroups: &str, controller: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        let tree = match names {
            "" => root.to_owned(),
            names if names.split(',').any(|name| name == controller) => root.join(controller),
            _ => continue,
        };
        // In a container the path may be the host's; then only the root of the tree is there.
        let path = Path::new(path.trim_start_matches('/'));
        found.extend(path.ancestors().map(|above| tree.join(above)));
    }
    found
}

/// The smallest limit of memory, if any.
fn memory_limit(root: &Path, cgroups: &str) -> Option<u64> {
    /// The first version writes "none" as a number that no machine has.
    const NONE: u64 = 1 << 60;
    let folders = groups(root, cgroups, "memory");
    let limits = folders.iter().flat_map(|folder| {
        ["memory.max", "memory.limit_in_bytes"].map(|file| {
            fs::read_to_string(folder.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
                .filter(|&limit: &u64| limit < NONE)
        })
    });
    limits.flatten().min()
}

/// The smallest share of the processor, in cores, if any.
fn cpu_quota(root: &Path, cgroups: &str) -> Option<f64> {
    let folders = groups(root, cgroups, "cpu");
    let quotas = folders.iter().flat_map(|folder| {
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<f64>().ok();
        let second = fs::read_to_string(folder.join("cpu.max")).ok().and_then(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        let first = number("cpu.cfs_quota_us")
            .filter(|&quota| quota > 0.0)
            .and_then(|quota| Some(quota / number("cpu.cfs_period_us")?));
        [second, first]
    });
    quotas.flatten().min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::super::check::Grade;
    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(file), text).unwrap();
    }

    #[test]
    fn the_narrowest_group_limits_in_both_versions() {
        let second = tempfile::tempdir().unwrap();
        let root = second.path();
        write(&root.join("a/b"), "memory.max", "max\n");
        write(&root.join("a"), "memory.max", "2147483648\n");
        write(&root.join("a"), "cpu.max", "150000 100000\n");
        write(root, "cpu.max", "max 100000\n");
        assert_eq!(memory_limit(root, "0::/a/b\n"), Some(2 << 30));
        assert_eq!(cpu_quota(root, "0::/a/b\n"), Some(1.5));
        assert_eq!((memory_limit(root, "0::/other\n"), cpu_quota(root, "0::/\n")), (None, None));

        let first = tempfile::tempdir().unwrap();
        let root = first.path();
        write(&root.join("memory"), "memory.limit_in_bytes", "1073741824\n");
        write(&root.join("cpu"), "cpu.cfs_quota_us", "-1\n");
        write(&root.join("cpu/c"), "cpu.cfs_quota_us", "50000\n");
        write(&root.join("cpu/c"), "cpu.cfs_period_us", "100000\n");
        let cgroups = "5:memory:/host/path\n4:cpu,cpuacct:/c\n";
        assert_eq!((memory_limit(root, cgroups), cpu_quota(root, cgroups)), (Some(1 << 30), Some(0.5)));
        write(&root.join("memory"), "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory_limit(root, cgroups), None);
    }

    #[test]
    fn memory_is_compared_with_what_the_service_takes() {
        let memory =
            |available: u64, limit| Some(Memory { total: 8 << 30, available: Some(available << 30), limit });
        let grade = |memory, needed: u64| memory_check(memory, Some(needed << 30)).grade;
        assert_eq!(grade(memory(6, None), 2), Grade::Ok);
        assert_eq!(grade(memory(2, None), 2), Grade::Warning);
        assert_eq!(grade(memory(6, Some(2 << 30)), 2), Grade::Warning);
        assert_eq!(grade(memory(6, Some(1 << 30)), 2), Grade::Failure);
        assert_eq!(memory_check(memory(6, None), None).grade, Grade::Ok);
    }
}
