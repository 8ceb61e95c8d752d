//! One file: looked at once, then read as often as needed.

use super::characters::CharacterEncoding;
use super::compression::{Compression, Inflated, ReadCount};
use super::detect::{Kind, check_columns, check_objects, foreign, kind_of};
use super::error::InputError;
use super::mapping::Mapping;
use super::ndjson::NdjsonLines;
use super::objects::{MappedLines, ObjectRows, RequestOptions};
use super::parquet_rows::{ParquetColumns, ParquetRows};
use super::piece::{PieceReader, RowPieces};
use super::table::TableRows;
use encoding_rs::Encoding;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The most bytes of a file that are looked at before it is read.
const LOOKED_AT: usize = 256 * 1024;

/// How files are to be read.
#[derive(Debug, Clone, Default)]
pub struct InputOptions {
    /// Which column is what.
    pub mapping: Arc<Mapping>,
    /// The encoding of files without a mark that are not UTF-8.
    pub encoding: Option<&'static Encoding>,
    /// What stands between the cells of a table; found out where it is not said.
    pub delimiter: Option<u8>,
    /// The dataset that chunks are sent to: a file may name it, and must then name this one.
    pub dataset: String,
}

/// What changes with the contents of a file: its length, and the time of its last change.
type FileState = (u64, Option<SystemTime>);
type ByteReader = Box<dyn Read + Send>;

/// Where the bytes come from.
enum Origin {
    /// A file that can be opened again.
    File { path: PathBuf, then: FileState },
    /// A pipe: inflated, with what was looked at in front. It is read once.
    Pipe(Mutex<Option<ByteReader>>),
}

/// A file of chunks.
pub struct Input {
    name: String,
    origin: Origin,
    compression: Compression,
    encoding: CharacterEncoding,
    kind: Kind,
    /// The number of rows, where the file says it.
    rows: Option<u64>,
    options: InputOptions,
}

impl Input {
    /// Looks at the beginning of a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be taken; the message says in which way it can.
    pub fn inspect(path: &Path, options: &InputOptions) -> Result<Input, InputError> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Input::of_pipe("standard input".to_owned(), Box::new(io::stdin()), options);
        }
        let metadata = std::fs::metadata(path)?;
        let file = File::open(path)?;
        if !metadata.is_file() {
            return Input::of_pipe(name, Box::new(file), options);
        }
        let then = (metadata.len(), metadata.modified().ok());
        let (compression, mut reader) = inflated(Box::new(file), ReadCount::default())?;
        let mut begin = Vec::new();
        let read = (&mut reader).take(LOOKED_AT as u64).read_to_end(&mut begin);
        // Damage behind the beginning is met when the file is read.
        if begin.is_empty() {
            read?;
        }
        if begin.starts_with(b"PAR1") {
            return Input::of_parquet(name, path, then, compression, options);
        }
        let looked =
            Looked::at(&begin, true, options)?.ok_or_else(|| InputError::Unknown("is empty".to_owned()))?;
        let origin = Origin::File { path: path.to_owned(), then };
        Ok(looked.into_input(name, origin, compression, options))
    }

    fn of_parquet(
        name: String,
        path: &Path,
        then: FileState,
        compression: Compression,
        options: &InputOptions,
    ) -> Result<Input, InputError> {
        if compression != Compression::Plain {
            let message = "is a compressed Parquet file, of which the end has to be read first: unpack it";
            return Err(InputError::Unusable(message.to_owned()));
        }
        let columns = ParquetColumns::of(File::open(path)?)?;
        check_columns(&columns.names, &options.mapping)?;
        let looked = Looked {
            kind: Kind::Parquet,
            encoding: CharacterEncoding::of(b"", None)?,
            rows: Some(columns.rows),
        };
        Ok(looked.into_input(name, Origin::File { path: path.to_owned(), then }, compression, options))
    }

    fn of_pipe(name: String, pipe: ByteReader, options: &InputOptions) -> Result<Input, InputError> {
        let (compression, mut reader) = inflated(pipe, ReadCount::default())?;
        let mut begin = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        let looked = loop {
            let read = match reader.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if !begin.is_empty() => 0,
                read => read?,
            };
            begin.extend_from_slice(&piece[..read]);
            let is_all = read == 0 || begin.len() >= LOOKED_AT;
            if begin.starts_with(b"PAR1") {
                let message =
                    "is a Parquet file, of which the end has to be read first: save it, and send the file";
                return Err(InputError::Unusable(message.to_owned()));
            }
            if let Some(looked) = Looked::at(&begin, is_all, options)? {
                break looked;
            }
        };
        let whole: ByteReader = Box::new(Cursor::new(begin).chain(reader));
        Ok(looked.into_input(name, Origin::Pipe(Mutex::new(Some(whole))), compression, options))
    }

    /// The path that was given, or `standard input`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In which form it holds chunks.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether it can be read more than once.
    pub fn can_reopen(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// The end of the count of [`Self::open`], if it is known: bytes, or the rows of a Parquet file.
    pub fn size(&self) -> Option<u64> {
        match &self.origin {
            Origin::File { then: (bytes, _), .. } => Some(self.rows.unwrap_or(*bytes)),
            Origin::Pipe(_) => None,
        }
    }

    /// The file is another one now.
    pub fn is_outdated(&self) -> bool {
        let Origin::File { path, then } = &self.origin else { return false };
        let now = std::fs::metadata(path).map(|now| (now.len(), now.modified().ok()));
        !now.is_ok_and(|now| now == *then)
    }

    /// Reads it from its beginning. `count` counts how much of it was read.
    ///
    /// # Errors
    /// The system's; a pipe that was opened before.
    pub fn open(&self, count: ReadCount) -> io::Result<Box<dyn PieceReader>> {
        let mapping = self.options.mapping.clone();
        let bytes: ByteReader = match &self.origin {
            Origin::File { path, .. } if self.kind == Kind::Parquet => {
                return Ok(Box::new(RowPieces::new(ParquetRows::new(File::open(path)?, mapping, count)?)));
            }
            Origin::File { path, .. } => Box::new(Inflated::new(File::open(path)?, self.compression, count)?),
            Origin::Pipe(pipe) => {
                let pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
                pipe.ok_or_else(|| io::Error::other("it is a pipe, which can be read only once"))?
            }
        };
        let text = self.encoding.reader(bytes)?;
        Ok(match (&self.kind, self.kind.container()) {
            (Kind::Table(header), _) => {
                Box::new(RowPieces::new(TableRows::new(text, header.clone(), mapping)?))
            }
            (_, Some(container)) => {
                let request = RequestOptions { dataset: self.options.dataset.clone() };
                Box::new(RowPieces::new(ObjectRows::new(text, container, mapping, request)))
            }
            (Kind::Rejects, None) => Box::new(MappedLines::new(NdjsonLines::new(text), mapping)),
            (_, None) if mapping.is_identity() => Box::new(NdjsonLines::new(text)),
            (_, None) => Box::new(MappedLines::new(NdjsonLines::new(text), mapping)),
        })
    }
}

/// What the beginning of a file has told.
struct Looked {
    kind: Kind,
    encoding: CharacterEncoding,
    rows: Option<u64>,
}

impl Looked {
    /// `None`: more is needed.
    fn at(begin: &[u8], is_all: bool, options: &InputOptions) -> Result<Option<Looked>, InputError> {
        if begin.len() < 4 && !is_all {
            return Ok(None);
        }
        if let Some(error) = foreign(begin) {
            return Err(error);
        }
        let encoding = CharacterEncoding::of(begin, options.encoding)?;
        let text = encoding.decode_begin(begin);
        let Some(kind) = kind_of(&text, is_all, &options.mapping, options.delimiter)? else {
            return Ok(None);
        };
        match &kind {
            Kind::Table(header) => {
                check_characters(&text)?;
                let names: Vec<String> = header.names().map(str::to_owned).collect();
                check_columns(&names, &options.mapping)?;
            }
            Kind::Rejects => {}
            _ => check_objects(&text, &kind, &options.mapping)?,
        }
        Ok(Some(Looked { kind, encoding, rows: None }))
    }

    fn into_input(
        self,
        name: String,
        origin: Origin,
        compression: Compression,
        options: &InputOptions,
    ) -> Input {
        let Looked { kind, encoding, rows } = self;
        Input { name, origin, compression, encoding, kind, rows, options: options.clone() }
    }
}

/// Tables often come from programs that do not write UTF-8: that is told at once, and not row by row.
fn check_characters(text: &[u8]) -> Result<(), InputError> {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_some() => {
            let line = memchr::memchr_iter(b'\n', &text[..error.valid_up_to()]).count() + 1;
            Err(InputError::Unusable(format!(
                "is not UTF-8 (line {line}): say how it is encoded, for a file of Excel or Windows most often \
                 --encoding windows-1252"
            )))
        }
        _ => Ok(()),
    }
}

fn inflated(mut file: ByteReader, count: ReadCount) -> io::Result<(Compression, ByteReader)> {
    let mut begin = Vec::new();
    (&mut file).take(4).read_to_end(&mut begin)?;
    let compression = Compression::of(&begin);
    let inflated = Inflated::new(Cursor::new(begin).chain(file), compression, count)?;
    Ok((compression, Box::new(inflated)))
}
