//! The way of a model from the hub into its folder, in one function.

use super::client::Client;
use super::fetch::Fetch;
use super::file_selection::{MODULES, modules, select};
use super::hash::Hash;
use super::manifest::{File, Manifest};
use super::observer::PullObserver;
use super::staging::{StagedModel, StagingDir};
use super::{Address, FetchRetry, HubError, ModelSource, Token, api};
use crate::files;
use std::path::{Path, PathBuf};

/// The client of a hub.
pub struct Hub {
    client: Client,
}

impl Hub {
    /// Sends no request yet. A proxy is taken from the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(address: Address, token: Option<Token>, retry: FetchRetry) -> Result<Hub, HubError> {
        Ok(Hub { client: Client::new(address, token, retry)? })
    }
}

/// A model that is here and whole.
#[derive(Debug)]
pub struct Pulled {
    /// The folder of the model.
    pub folder: PathBuf,
    /// The manifest of the model.
    pub manifest: Manifest,
    /// Whether it was here before, so that nothing was fetched.
    pub before: bool,
}

/// Brings a model into its folder below `models`, or finds it there with all its files as they should be. What is cut
/// off is kept, and gone on with the next time.
///
/// # Errors
/// One sentence that says what to do; the folder of the whole model is then not there.
pub async fn pull(
    hub: &Hub,
    source: &ModelSource,
    models: &Path,
    observer: &mut dyn PullObserver,
) -> Result<Pulled, HubError> {
    let staging = StagingDir::new(models, &source.folder);
    if let StagedModel::Whole(manifest) = staging.inspect()? {
        return Ok(Pulled { folder: staging.folder, manifest, before: true });
    }
    let lock = staging.lock()?;
    // Another pull may have finished the model before the lock was free.
    match staging.inspect()? {
        StagedModel::Whole(manifest) => {
            lock.release();
            return Ok(Pulled { folder: staging.folder, manifest, before: true });
        }
        StagedModel::Damaged(manifest) => {
            observer.on_message("some files are not what they were; they are fetched again");
            lock.reuse(&manifest)?;
        }
        StagedModel::Nothing => {}
    }

    let (client, id) = (&hub.client, &source.id);
    let commit = api::commit(client, id, observer).await?;
    let listed = api::files(client, id, &commit, observer).await?;
    let location = |path: &str| api::location(client, id, &commit, path);
    let list = match listed.iter().find(|file| file.path == MODULES) {
        Some(file) => Some(small(client, source, file, &commit, observer).await?),
        None => None,
    };
    let files = select(&id.repository, &listed, list.as_deref().unwrap_or(b"[]"))?;
    let own = list.as_ref().map(|bytes| File {
        path: MODULES.to_owned(),
        size: bytes.len() as u64,
        hash: Hash::sha256(bytes),
    });
    let all: Vec<File> = own.into_iter().chain(files.iter().cloned()).collect();
    lock.keep_only(&all)?;
    lock.check_space(&all)?;

    let manifest = Manifest {
        hub_id: id.repository.clone(),
        revision: id.revision.clone(),
        commit: commit.clone(),
        recipe: source.recipe.name().to_owned(),
        files: all,
    };
    observer.on_start(manifest.files.len(), manifest.size());
    let mut here = 0;
    if let Some(bytes) = list {
        let path = lock.part().join(MODULES);
        files::replace(&path, &[&bytes]).map_err(|error| HubError::Disk { path, error })?;
        here += bytes.len() as u64;
    }
    for file in &files {
        let fetch = Fetch { client, url: location(&file.path), file, folder: lock.part() };
        fetch.run(observer, here).await.map_err(|error| error.about(&client.hub, id))?;
        here += file.size;
    }
    lock.finish(&manifest)?;
    Ok(Pulled { folder: staging.folder, manifest, before: false })
}

/// The list of modules: verified as all files are, and then as the recipe wants it.
async fn small(
    client: &Client,
    source: &ModelSource,
    file: &File,
    commit: &str,
    observer: &mut dyn PullObserver,
) -> Result<Vec<u8>, HubError> {
    let url = api::location(client, &source.id, commit, &file.path);
    let (_, bytes) = api::read(client, &source.id, &url, observer).await?;
    let (path, received) = (file.path.clone(), file.hash.of(&bytes));
    if received != file.hash {
        return Err(HubError::WrongHash { file: path, expected: file.hash.clone(), received });
    }
    modules(&bytes, source.recipe).map_err(|error| client.no_hub(&url, error.to_string()))
}
