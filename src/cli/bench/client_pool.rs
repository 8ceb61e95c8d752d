//! The processes of a measurement: the simulated language model and the services, each with its settings.

use super::child::{Child, ChildError};
use super::service::Mode;
use crate::files;
use crate::simulated_llm::Latency;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use tempfile::TempDir;

/// The model that both the simulated LLM and the services are told to use.
pub const MODEL: &str = "llama3.1:8b";

/// All processes that were started. Dropped, it ends them.
#[derive(Default)]
pub struct ClientPool {
    children: Vec<Child>,
}

impl ClientPool {
    /// Starts a simulated language model; its address.
    pub async fn simulate_llm(&mut self, latency: Latency, slots: usize) -> Result<String, ChildError> {
        let name = "simulated LLM";
        let mut command = this_program(name)?;
        command.args(["simulate-llm", "--until-stdin-closes", "--models", MODEL]);
        command.args(["--latency", &latency.to_string(), "--slots", &slots.to_string()]);
        self.take(Child::spawn(name, command, folder(name)?)?).await
    }

    /// Starts a service with a data folder of its own, whose codes come from the language model alone; its address.
    pub async fn serve(
        &mut self,
        mode: Mode,
        workers: usize,
        llm: Option<&str>,
    ) -> Result<String, ChildError> {
        let name = name(mode);
        let folder = folder(&name)?;
        let mut command = this_program(&name)?;
        for setting in ["DATABASE_URL", "PG_DSN", "LNSP_HOST", "LNSP_PORT", "LNSP_DATA_DIR"] {
            command.env_remove(setting);
        }
        command
            .args(["serve", "--port", "0", "--llm-cache-mb", "0", "--data-dir"])
            .arg(folder.path().join("data"));
        command.env("LNSP_TMD_BACKEND", "llm").env("LNSP_TMD_ON_FAILURE", "reject");
        command.env("LNSP_ENABLE_PARALLEL", (mode == Mode::Parallel).to_string());
        command.env("LNSP_MAX_PARALLEL_WORKERS", workers.to_string());
        if let Some(llm) = llm {
            command.env("LNSP_LLM_ENDPOINT", llm).env("LNSP_TMD_LLM_MODEL", MODEL);
        }
        let mut service = Child::spawn(&name, command, folder)?;
        service.watch()?;
        self.take(service).await
    }

    async fn take(&mut self, mut child: Child) -> Result<String, ChildError> {
        let url = child.ready().await?;
        self.children.push(child);
        Ok(url)
    }

    /// How the service of this mode ended and what it said, if it has ended.
    pub fn obituary(&mut self, mode: Mode) -> Option<ChildError> {
        let name = name(mode);
        self.children.iter_mut().find(|child| child.name() == name)?.obituary()
    }
}

impl Drop for ClientPool {
    /// All are told before the first is waited for, so that they end at the same time.
    fn drop(&mut self) {
        self.children.iter_mut().for_each(Child::tell_to_end);
    }
}

fn name(mode: Mode) -> String {
    format!("{mode} service")
}

/// A folder that any account may pass, and only this one list: a PostgreSQL that is started by root runs as another.
fn folder(name: &str) -> Result<TempDir, ChildError> {
    let open = std::fs::Permissions::from_mode(files::PASSABLE);
    let folder = tempfile::Builder::new().prefix("lnsp-bench-").permissions(open).tempdir();
    folder.map_err(|error| ChildError::Start { name: name.to_owned(), error })
}

fn this_program(name: &str) -> Result<Command, ChildError> {
    let program = std::env::current_exe();
    program.map(Command::new).map_err(|error| ChildError::Start { name: name.to_owned(), error })
}
