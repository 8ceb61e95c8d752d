//! Where an export goes: a file that gets its name when it is complete, or a stream.

use super::error::ExportFailure;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Stdout, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The bytes that wait to be written.
const BUFFER: usize = 256 * 1024;
/// As any program makes files: the mask of the process takes its part.
const MODE: u32 = 0o666;

/// Where an export goes.
pub enum Output {
    /// A file beside its later place.
    File {
        /// The bytes so far.
        file: BufWriter<NamedTempFile>,
        /// Its later place.
        place: PathBuf,
    },
    /// The standard output.
    Standard(BufWriter<Stdout>),
    /// A pipe or a device, which is written as it is.
    Stream(BufWriter<File>),
}

impl Output {
    /// Opens the output. `-` is the standard output.
    pub fn create(path: &Path, has_to_be_a_file: bool) -> Result<Output, ExportFailure> {
        if path.as_os_str() == "-" {
            return Ok(Output::Standard(BufWriter::with_capacity(BUFFER, io::stdout())));
        }
        let failed = |error| ExportFailure::File { file: path.display().to_string(), error };
        // A link is followed: what it leads to is replaced, and not the link.
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Ok(metadata) = std::fs::metadata(&place)
            && !metadata.is_file()
        {
            if metadata.is_dir() || has_to_be_a_file {
                return Err(failed(io::Error::other("it is not a file; name another with --output")));
            }
            let file = File::options().write(true).open(&place).map_err(failed)?;
            return Ok(Output::Stream(BufWriter::with_capacity(BUFFER, file)));
        }
        let file = tempfile::Builder::new()
            .prefix(".lnsp-export-")
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(folder(&place))
            .map_err(failed)?;
        Ok(Output::File { file: BufWriter::with_capacity(BUFFER, file), place })
    }

    /// The folder of the file, for files beside it.
    pub fn folder(&self) -> &Path {
        match self {
            Output::File { place, .. } => folder(place),
            Output::Standard(_) | Output::Stream(_) => Path::new("."),
        }
    }

    /// Writes what waits, and gives the file its name.
    pub fn finish(self) -> Result<(), ExportFailure> {
        match self {
            Output::File { file, place } => {
                let failed = |error| ExportFailure::File { file: place.display().to_string(), error };
                let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&place).map_err(|error| failed(error.error))?;
                // The name is in the folder when that is written.
                File::open(folder(&place)).and_then(|folder| folder.sync_all()).map_err(failed)
            }
            Output::Standard(mut out) => flushed(&mut out),
            Output::Stream(mut out) => flushed(&mut out),
        }
    }
}

fn flushed(out: &mut impl Write) -> Result<(), ExportFailure> {
    out.flush().map_err(|error| ExportFailure::File { file: "the output".to_owned(), error })
}

fn folder(place: &Path) -> &Path {
    place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::File { file, .. } => file.write(bytes),
            Output::Standard(out) => out.write(bytes),
            Output::Stream(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::File { file, .. } => file.flush(),
            Output::Standard(out) => out.flush(),
            Output::Stream(out) => out.flush(),
        }
    }
}

impl io::Seek for Output {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        match self {
            Output::File { file, .. } => file.seek(to),
            Output::Stream(out) => out.seek(to),
            Output::Standard(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }
}
