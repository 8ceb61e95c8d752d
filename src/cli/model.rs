//! `lnsp model pull NAME` and `lnsp model list`: models from a hub into the data folder, which are there, and which the
//! store has vectors of.

use super::amounts::thousands;
use super::model_use::{self, Use};
use super::reached_database::DatabasePlace;
use super::{CommandResult, block_on, signalled};
use crate::app::model_folders;
use crate::config::variable;
use crate::encoder::{EncodeError, locate};
use crate::files;
use crate::hub::{self, Address, CATALOGUE, FetchRetry, Hub, Manifest, ModelSource, PullObserver, Token};
use crate::model::{UNFINISHED, folder_name};
use crate::output::{escape, print_block, print_error_line, print_line};
use crate::store::{Dsn, Store, StoreError, StoreOptions};
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where models come from when nothing else is last_message.
const HUB: &str = "https://huggingface.co";
/// The time between two lines of progress without a terminal.
const PLAIN_PACE: Duration = Duration::from_secs(5);

/// The arguments of `lnsp model`.
#[derive(Debug, Args)]
pub struct Model {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Fetches a model for `lnsp serve`; goes on with what was cut off, and does nothing when it is there.
    Pull(Pull),
    /// The models of the catalogue, those that are here, and those that the store has vectors of.
    List(List),
    /// Puts a model to use, when every chunk has a vector of it.
    Use(Use),
}

/// `lnsp model pull`
#[derive(Debug, Args)]
pub struct Pull {
    /// A name that `lnsp model list` shows, or one on the hub: owner/name, owner/name@revision.
    name: String,
    /// Models lie in its folder `models`.
    #[arg(long, env = "LNSP_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Base address of the hub (also read from HF_ENDPOINT) [default: `https://huggingface.co`]. The token for private
    /// models is read from HF_TOKEN.
    #[arg(long = "hub", env = "LNSP_HUB_ENDPOINT", value_parser = address("LNSP_HUB_ENDPOINT"))]
    hub: Option<Address>,
}

/// `lnsp model list`
#[derive(Debug, Args)]
pub struct List {
    /// The data folder with the models, and the database. One that does not run is left out.
    #[command(flatten)]
    place: DatabasePlace,
}

/// Runs `lnsp model`.
pub fn run(model: Model) -> CommandResult {
    match model.command {
        ModelCommand::Pull(flags) => pull(&flags),
        ModelCommand::List(flags) => {
            print_block(table(&flags.place.data_dir));
            if let Some(dsn) = flags.place.running()? {
                print_block(block_on(stored_table(dsn))??);
            }
            Ok(ExitCode::SUCCESS)
        }
        ModelCommand::Use(flags) => model_use::run(&flags),
    }
}

fn address(name: &'static str) -> impl Fn(&str) -> Result<Address, String> + Clone + Send + Sync + 'static {
    move |text| text.parse().map_err(|error| format!("{name}: {error}"))
}

impl Pull {
    fn address(&self) -> Result<Address, String> {
        match (&self.hub, variable("HF_ENDPOINT")) {
            (Some(hub), _) => Ok(hub.clone()),
            (None, Some(text)) => address("HF_ENDPOINT")(&text),
            (None, None) => address("LNSP_HUB_ENDPOINT")(HUB),
        }
    }
}

fn token() -> Result<Option<Token>, &'static str> {
    let unusable = "HF_TOKEN cannot be sent: expected a token like hf_..., without spaces";
    variable("HF_TOKEN").map(|text| Token::new(&text).ok_or(unusable)).transpose()
}

fn pull(flags: &Pull) -> CommandResult {
    let (name, models) = (flags.name.as_str(), flags.data_dir.join("models"));
    if let Some(folder) = elsewhere(name, &flags.data_dir) {
        print_line(format!("{name} is here already: {}", folder.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let source = ModelSource::find(name)?;
    let hub = Hub::new(flags.address()?, token()?, FetchRetry::default())?;
    let (data_dir, mode) = (&flags.data_dir, files::data_folder_mode());
    files::make_folders(data_dir, mode)
        .map_err(|error| format!("the data folder {} cannot be used: {error}", data_dir.display()))?;
    let mut progress = PullProgress::new(name);
    let pulled = block_on(async {
        tokio::select! {
            pulled = hub::pull(&hub, &source, &models, &mut progress) => Some(pulled),
            () = signalled() => None,
        }
    })?;
    progress.bar.finish_and_clear();
    let Some(pulled) = pulled else {
        print_error_line("stopped; what has arrived is kept: run the same command again to go on");
        return Ok(ExitCode::from(130));
    };
    let pulled = pulled?;
    let state = if pulled.before { "is here already and whole" } else { "is here" };
    let (folder, size) = (pulled.folder.display(), HumanBytes(pulled.manifest.size()));
    let (files, commit) = (pulled.manifest.files.len(), &pulled.manifest.commit);
    print_line(format!("{name} {state}: {folder} ({files} files, {size}, commit {commit})"));
    locate(name, &[models])
        .map_err(|error| format!("{name} was fetched, but this version cannot use it: {error}"))?;
    print_line(format!("lnsp serve --embedding-model {name}"));
    Ok(ExitCode::SUCCESS)
}

/// A folder that needs no hub: one that is named by its path, or that set-up has made.
fn elsewhere(name: &str, data_dir: &Path) -> Option<PathBuf> {
    let path = Some(PathBuf::from(name)).filter(|path| name.contains('/') && path.is_dir());
    let Some(folder) = folder_name(name) else { return path };
    let mut places = model_folders(data_dir).into_iter().map(|place| place.join(&folder));
    // The data folder's own models are looked at file by file.
    if places.next().is_some_and(|own| own.is_dir()) {
        None
    } else {
        places.find(|place| place.is_dir()).or(path)
    }
}

/// A bar on a terminal, a plain line now and then otherwise.
struct PullProgress {
    bar: ProgressBar,
    name: String,
    plain: bool,
    last_message: Instant,
}

impl PullProgress {
    fn new(name: &str) -> PullProgress {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let shape = "{msg} [{wide_bar}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} to go";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(escape(name));
        PullProgress { bar, name: name.to_owned(), plain, last_message: Instant::now() }
    }
}

impl PullObserver for PullProgress {
    fn on_start(&mut self, files: usize, bytes: u64) {
        self.bar.set_length(bytes);
        self.on_message(&format!("{files} files, {}", HumanBytes(bytes)));
    }

    fn on_progress(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.plain && self.last_message.elapsed() >= PLAIN_PACE {
            let length = self.bar.length().unwrap_or_default();
            self.on_message(&format!("{} of {}", HumanBytes(bytes), HumanBytes(length)));
        }
    }

    fn on_message(&mut self, sentence: &str) {
        self.last_message = Instant::now();
        self.bar.suspend(|| print_error_line(format!("{}: {sentence}", self.name)));
    }
}

fn table(data_dir: &Path) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["model", "state", "from", "folder"]);
    let mut shown = Vec::new();
    for place in model_folders(data_dir) {
        for folder in folders(&place) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The first of a name is the one that is used.
            if !shown.contains(&name) {
                // A line break in a cell would be taken for one of the table.
                table.add_row(row(&name, &folder).map(|cell| escape(&cell)));
                shown.push(name);
            }
        }
    }
    for entry in CATALOGUE.iter().filter(|entry| !shown.iter().any(|name| name == entry.name)) {
        let way = format!("not here: lnsp model pull {}", entry.name);
        table.add_row([entry.name, &way, entry.repository, ""]);
    }
    table
}

/// The models of a store, and how many chunks lack a vector of each.
async fn stored_table(dsn: Dsn) -> Result<Table, StoreError> {
    let store = Store::open(StoreOptions { dsn, pool_size: 1 }).await?;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "model of the store",
        "in use",
        "dimensions",
        "fingerprint",
        "chunks without a vector",
    ]);
    for model in store.models().await? {
        let lacking = store.count_lacking(model.id).await?;
        let in_use = if model.in_use { "yes" } else { "no" };
        let print: String = model.identity.fingerprint.chars().take(12).collect();
        let cells = [model.identity.name, in_use.to_owned(), model.identity.dims.to_string(), print];
        let cells = cells.into_iter().chain([thousands(lacking)]);
        table.add_row(cells.map(|cell| escape(&cell)));
    }
    store.close().await;
    Ok(table)
}

fn folders(place: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(place)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn row(name: &str, folder: &Path) -> [String; 4] {
    let manifest = Manifest::of(folder);
    let from = manifest
        .as_ref()
        .map(|manifest| format!("{} {:.12}", manifest.hub_id, manifest.commit))
        .unwrap_or_default();
    let state = match name.strip_suffix(UNFINISHED) {
        Some(name) => format!("unfinished: lnsp model pull {}", name.replacen("--", "/", 1)),
        None => match locate(&folder.display().to_string(), &[]) {
            Ok(files) => format!("ready, {} dimensions", files.dims()),
            Err(EncodeError::Unsupported { .. }) => "not supported by this version".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    [name.to_owned(), state, from, folder.display().to_string()]
}
