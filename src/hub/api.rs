//! What the hub says about a model: which commit a revision is, and the files of a commit.

use super::client::{Client, FetchError};
use super::error::HubError;
use super::fetch::Tries;
use super::hash::Hash;
use super::manifest::File;
use super::observer::PullObserver;
use crate::model::HubId;
use hyper::header::{HeaderMap, LINK};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

/// A thousand files each; models have a few dozen.
const PAGES: usize = 20;

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

/// The commit that a revision is now.
pub async fn commit(
    client: &Client,
    id: &HubId,
    observer: &mut dyn PullObserver,
) -> Result<String, HubError> {
    let url = client.hub.at(api(id).chain(["revision", id.revision.as_str()]));
    let (_, Revision { sha }) = ask(client, id, &url, observer).await?;
    let is_commit = sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit { Ok(sha) } else { Err(client.no_hub(&url, "no commit".to_owned())) }
}

/// All files of a commit, also unneeded ones.
pub async fn files(
    client: &Client,
    id: &HubId,
    commit: &str,
    observer: &mut dyn PullObserver,
) -> Result<Vec<File>, HubError> {
    let mut url = client.hub.at(api(id).chain(["tree", commit]));
    url.set_query(Some("recursive=true"));
    let mut files = Vec::new();
    for _ in 0..PAGES {
        let (headers, page): (_, Vec<Listed>) = ask(client, id, &url, observer).await?;
        for listed in page.into_iter().filter(|listed| listed.kind == "file") {
            files.push(file(listed).map_err(|problem| client.no_hub(&url, problem.to_owned()))?);
        }
        match next_page(&headers, &url) {
            Some(next) => url = next,
            None => break,
        }
    }
    Ok(files)
}

/// Where a file lies.
pub fn location(client: &Client, id: &HubId, commit: &str, path: &str) -> Url {
    client.hub.at(id.repository.split('/').chain(["resolve", commit]).chain(path.split('/')))
}

fn api(id: &HubId) -> impl Iterator<Item = &str> {
    ["api", "models"].into_iter().chain(id.repository.split('/'))
}

fn file(listed: Listed) -> Result<File, &'static str> {
    let Listed { path, size, oid, lfs, .. } = listed;
    match lfs {
        Some(Large { oid, size }) => Ok(File { path, size, hash: format!("sha256:{oid}").parse()? }),
        None => Ok(File { path, size, hash: format!("git:{oid}").parse::<Hash>()? }),
    }
}

async fn ask<T: DeserializeOwned>(
    client: &Client,
    id: &HubId,
    url: &Url,
    observer: &mut dyn PullObserver,
) -> Result<(HeaderMap, T), HubError> {
    let (headers, body) = read(client, id, url, observer).await?;
    let answer = serde_json::from_slice(&body).map_err(|error| client.no_hub(url, error.to_string()))?;
    Ok((headers, answer))
}

/// Reads something small, and tries again where that can help.
pub async fn read(
    client: &Client,
    id: &HubId,
    url: &Url,
    observer: &mut dyn PullObserver,
) -> Result<(HeaderMap, Vec<u8>), HubError> {
    let mut tries = Tries::new(client.retry);
    loop {
        match client.read(url).await {
            Ok(answer) => return Ok(answer),
            Err(FetchError::Permanent(error)) => return Err(error.about(&client.hub, id)),
            Err(FetchError::Transient { host, problem, wait }) => {
                tries.wait(host, problem, wait, observer).await?;
            }
        }
    }
}

/// `Link: <address>; rel="next"`, on the hub itself.
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let next = url.join(next.split_once('<')?.1.split_once('>')?.0).ok()?;
    (next.origin() == url.origin()).then_some(next)
}
