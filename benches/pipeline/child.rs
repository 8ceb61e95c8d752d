//! A service as a process of its own, whose memory is what the kernel says of it and nothing else.

use super::service::{Result, data_folder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// `lnsp serve` with the real model, its own PostgreSQL and its own data folder. Ended in order when dropped.
pub struct ServiceProcess {
    child: Child,
    pub url: String,
    _data: tempfile::TempDir,
}

impl ServiceProcess {
    /// Waits until it is ready.
    pub fn start(flags: &[&str]) -> Result<ServiceProcess> {
        let data = data_folder()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lnsp"));
        command.env("LNSP_LOG", "error").env_remove("DATABASE_URL").env_remove("PG_DSN");
        command.args(["serve", "--port", "0", "--data-dir"]).arg(data.path()).args(flags);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("a service without output")?);
        let mut service = ServiceProcess { child, url: String::new(), _data: data };
        let mut lines = output.lines();
        for line in lines.by_ref() {
            if let Some((_, url)) = line?.split_once("ready on ") {
                url.clone_into(&mut service.url);
                // It keeps writing, so its output must be read.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(service);
            }
        }
        Err("the service ended before it was ready; it said why above".into())
    }

    /// MiB of memory that no file stands behind: what it keeps of the chunks that it has stored is in mapped files.
    pub fn memory_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        // A service asked to end stops its PostgreSQL; that takes as long as it takes.
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            // It may have ended by itself just now.
            let _told: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        drop(self.child.wait());
    }
}
