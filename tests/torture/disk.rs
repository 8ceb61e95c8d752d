//! A small disk of its own under a data folder, which can be filled to the last byte.

use rand::RngExt;
use rand::rngs::StdRng;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The cluster takes 40 MB, its journal grows to some 16 more.
const SIZE: &str = "size=112m,mode=755";

/// Mounted while it lives; a process beside us takes it down when we are killed.
pub struct SmallDisk {
    folder: PathBuf,
    watchdog: Child,
}

impl SmallDisk {
    /// `None` where mounting is not allowed.
    pub fn mount(folder: &Path) -> Option<SmallDisk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "lnsp-torture"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let watchdog = Command::new("sh")
            .args(["-c", "cat > /dev/null; umount -l \"$1\"", "unmount"])
            .arg(folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Some(SmallDisk { folder: folder.to_owned(), watchdog })
    }

    /// Fills it, leaves it so, and makes room again. Says whether anybody found it full.
    pub async fn fill_for_a_while(&self, log: &Path, dice: &mut StdRng) -> bool {
        let ballast = self.folder.join("ballast");
        let before = complaints(log);
        let piece = vec![0; 64 * 1024];
        let until = std::time::Instant::now() + Duration::from_millis(dice.random_range(1_000..4_000));
        let mut file = File::create(&ballast).unwrap();
        while std::time::Instant::now() < until {
            // What others free meanwhile is taken too, in ever smaller pieces.
            let mut size = piece.len();
            while size > 0 {
                match file.write(&piece[..size]) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                    Err(error) => panic!("the ballast cannot be written: {error}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(file);
        std::fs::remove_file(ballast).unwrap();
        complaints(log) > before
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().unwrap();
        // The folder on the disk could be emptied, the one under it only now be removed.
        drop(std::fs::remove_dir(&self.folder));
    }
}

/// How often the service says that there is no space, or that its database died of that.
fn complaints(log: &Path) -> usize {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ["o space left", "53100", "postgresql is gone"].iter().map(|words| text.matches(words).count()).sum()
}
