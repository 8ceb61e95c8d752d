//! One file: goes on where it ended, as often as that brings it further, and counts only with the right hash.

use super::client::{Client, FetchError, FetchRetry, HubResponse};
use super::error::At;
use super::error::HubError;
use super::manifest::File;
use super::observer::PullObserver;
use crate::files;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// No pause between two tries is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Counts the tries in a row that brought nothing.
pub struct Tries {
    retry: FetchRetry,
    failed: u32,
}

impl Tries {
    pub fn new(retry: FetchRetry) -> Tries {
        Tries { retry, failed: 0 }
    }

    /// Starts the count again, after progress.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next try, or gives up.
    pub async fn wait(
        &mut self,
        host: String,
        problem: String,
        wait: Option<Duration>,
        observer: &mut dyn PullObserver,
    ) -> Result<(), HubError> {
        self.failed += 1;
        if self.failed >= self.retry.tries {
            return Err(HubError::Unreachable { host, problem });
        }
        let growing = self.retry.pause.saturating_mul(1 << (self.failed - 1).min(16));
        let pause = wait.unwrap_or(growing).min(LONGEST_PAUSE);
        observer.on_message(&format!("{host}: {problem}; trying again in {} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The download of a file from the hub into the folder of an unfinished model.
pub struct Fetch<'a> {
    pub client: &'a Client,
    pub url: Url,
    pub file: &'a File,
    /// The folder of the model.
    pub folder: &'a Path,
}

/// Where a file lies while it is not whole. Its hash is in the name: bytes of another version are not gone on with.
pub fn unfinished(file: &File) -> PathBuf {
    PathBuf::from(format!("{}.{}.part", file.path, file.hash.short()))
}

impl Fetch<'_> {
    /// Downloads the file; `observer` learns how much of it is here.
    pub async fn run(&self, observer: &mut dyn PullObserver, before: u64) -> Result<(), HubError> {
        let target = self.folder.join(&self.file.path);
        if let Some(parent) = target.parent() {
            files::make_folders(parent, files::PRIVATE).at(parent)?;
        }
        if !self.file.is_whole_in(self.folder)? {
            self.download(observer, before).await?;
            let part = self.part();
            self.verify(&part)?;
            fs::rename(&part, &target).at(&target)?;
        }
        observer.on_progress(before + self.file.size);
        Ok(())
    }

    fn part(&self) -> PathBuf {
        self.folder.join(unfinished(self.file))
    }

    async fn download(&self, observer: &mut dyn PullObserver, before: u64) -> Result<(), HubError> {
        let part = self.part();
        let mut tries = Tries::new(self.client.retry);
        loop {
            let had = size_of(&part);
            match self.resume(&part, observer, before).await {
                Ok(()) => return Ok(()),
                Err(FetchError::Permanent(error)) => return Err(error),
                Err(FetchError::Transient { host, problem, wait }) => {
                    if size_of(&part) > had {
                        tries.reset();
                    }
                    tries.wait(host, problem, wait, observer).await?;
                }
            }
        }
    }

    /// Asks for the rest and writes what comes.
    async fn resume(
        &self,
        part: &Path,
        observer: &mut dyn PullObserver,
        before: u64,
    ) -> Result<(), FetchError> {
        let size = self.file.size;
        let mut out = files::open(part, OpenOptions::new().create(true).append(true), None).at(part)?;
        let mut have = out.metadata().at(part)?.len();
        if have == size {
            return Ok(());
        }
        if have > size {
            out.set_len(0).at(part)?;
            have = 0;
        }
        let mut reply = self.client.get(&self.url, have).await?;
        if have > 0 && !continues(&reply, have) {
            out.set_len(0).at(part)?;
            have = 0;
            if reply.status != 200 {
                return Err(reply.transient("it does not go on where the file ended; beginning anew"));
            }
        }
        let announced = reply.header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if let Some(length) = announced.filter(|length| have + length != size) {
            return Err(self.wrong_size(part, have + length)?.into());
        }
        observer.on_progress(before + have);
        while let Some(piece) = reply.piece().await? {
            let now = have + piece.len() as u64;
            if now > size {
                return Err(self.wrong_size(part, now)?.into());
            }
            out.write_all(&piece).at(part)?;
            have = now;
            observer.on_progress(before + have);
        }
        if have < size { Err(reply.transient("the answer ended early")) } else { Ok(()) }
    }

    /// Deletes what is no beginning of the file.
    fn wrong_size(&self, part: &Path, received: u64) -> Result<HubError, HubError> {
        fs::remove_file(part).at(part)?;
        Ok(HubError::WrongSize { file: self.file.path.clone(), expected: self.file.size, received })
    }

    fn verify(&self, part: &Path) -> Result<(), HubError> {
        let expected = &self.file.hash;
        let received = expected.of_file(part).at(part)?;
        if received == *expected {
            // The name says that it is whole, so it must not outlive a power cut half written.
            return fs::File::open(part).and_then(|file| file.sync_all()).at(part);
        }
        fs::remove_file(part).at(part)?;
        let (file, expected) = (self.file.path.clone(), expected.clone());
        Err(HubError::WrongHash { file, expected, received })
    }
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// `Content-Range: bytes 100-999/1000`
fn continues(reply: &HubResponse, from: u64) -> bool {
    let begins = reply.header(CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    reply.status == 206 && begins.is_some_and(|(begins, _)| begins.trim().parse() == Ok(from))
}
