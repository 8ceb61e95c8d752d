//! The processes that are measured: `lnsp` as it is, and this executable as a service with a scripted encoder.

use super::{Result, watch};
use clap::Parser;
use lnsp_ingest::app::{App, Overrides};
use lnsp_ingest::config::Config;
use lnsp_ingest::encoder::{self, EncodeError, Encoder, Tokens};
use lnsp_ingest::http;
use lnsp_ingest::model::ModelIdentity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The first argument that makes this executable a service.
pub const SERVE: &str = "serve-scripted";

/// A process that says where it is ready. Ended in order when dropped.
pub struct Process {
    child: Child,
    pub url: String,
    _data: Option<tempfile::TempDir>,
}

impl Process {
    /// `lnsp serve` with the real model, its own PostgreSQL and these flags.
    pub fn real(flags: &[&str]) -> Result<Process> {
        let mut command = lnsp();
        command.arg("serve");
        Process::service(command, flags)
    }

    /// A service whose encoder costs nothing.
    pub fn scripted(flags: &[&str]) -> Result<Process> {
        Process::scripted_by(&std::env::current_exe()?, flags)
    }

    /// The same by another executable of a bench, of this version or another one.
    pub fn scripted_by(program: &Path, flags: &[&str]) -> Result<Process> {
        let mut command = Command::new(program);
        command.arg(SERVE);
        Process::service(command, flags)
    }

    /// A language model that takes 887 ms a call.
    pub fn llm(slots: usize) -> Result<Process> {
        let mut command = lnsp();
        command.args([
            "simulate-llm",
            "--until-stdin-closes",
            "--latency",
            "887ms",
            "--slots",
            &slots.to_string(),
        ]);
        Process::start(command, None)
    }

    fn service(mut command: Command, flags: &[&str]) -> Result<Process> {
        let data = shared_folder()?;
        command.args(["--port", "0", "--data-dir"]).arg(data.path()).args(flags);
        if !flags.contains(&"--tmd-backend") {
            command.args(["--tmd-backend", "local"]);
        }
        Process::start(command, Some(data))
    }

    fn start(mut command: Command, data: Option<tempfile::TempDir>) -> Result<Process> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("a process without output")?);
        let mut process = Process { child, url: String::new(), _data: data };
        let mut lines = output.lines();
        for line in lines.by_ref() {
            if let Some((_, url)) = line?.split_once("ready on ") {
                url.clone_into(&mut process.url);
                // It keeps writing, so its output must be read.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(process);
            }
        }
        Err("a process ended before it was ready; it said why above".into())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A service asked to end stops its PostgreSQL; that takes as long as it takes.
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            // It may have ended by itself just now.
            let _told: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        drop(self.child.wait());
    }
}

/// Without the environment's own settings.
pub fn lnsp() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lnsp"));
    command.env("LNSP_LOG", "error").env_remove("DATABASE_URL").env_remove("PG_DSN");
    command
}

/// As root our PostgreSQL runs under another account, which has to get to its folder.
pub fn shared_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// What the child does: as `lnsp serve`, with an encoder of its own.
pub fn serve(flags: &[String]) -> Result<()> {
    watch::raise_descriptor_limit()?;
    let config =
        Flags::try_parse_from(std::iter::once(SERVE).chain(flags.iter().map(String::as_str)))?.config;
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/models");
    let identity =
        encoder::locate(config.embedding_model.as_deref().unwrap_or("all-minilm-l6-v2"), &[models])?
            .identity()?;
    let encoder: lnsp_ingest::app::EncoderFactory = Arc::new(move || Box::new(Scripted(identity.clone())));
    actix_web::rt::System::new().block_on(async move {
        let overrides = Overrides { encoder: Some(encoder), ..Overrides::default() };
        let app = App::start(config, overrides, &mut |_| {}).await?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = http::serve(listener, app.state.clone(), http::Settings::default())?;
        println!("ready on {url}");
        server_until_told(server).await?;
        app.stop().await.iter().for_each(|trouble| eprintln!("{trouble}"));
        Ok(())
    })
}

async fn server_until_told(server: actix_web::dev::Server) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (handle, mut told) = (server.handle(), signal(SignalKind::terminate())?);
    actix_web::rt::spawn(async move {
        told.recv().await;
        handle.stop(true).await;
    });
    Ok(server.await?)
}

/// Vectors that are a function of the tokens, at next to no cost.
struct Scripted(ModelIdentity);

impl Encoder for Scripted {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn dims(&self) -> usize {
        self.0.dims
    }

    fn encode(&mut self, texts: &[&Tokens]) -> std::result::Result<Vec<encoder::Vector>, EncodeError> {
        Ok(texts.iter().map(|tokens| Ok(direction(tokens, self.0.dims))).collect())
    }
}

/// A unit vector that depends on the tokens alone.
fn direction(tokens: &Tokens, dims: usize) -> Arc<[f32]> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    tokens.ids.hash(&mut hasher);
    let mut state = hasher.finish() as u32;
    let wave = (0..dims).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from((state >> 16) as u16) / 32768.0 - 1.0
    });
    let wave: Vec<f32> = wave.collect();
    let norm = wave.iter().map(|x| x * x).sum::<f32>().sqrt();
    wave.iter().map(|x| x / norm).collect()
}
