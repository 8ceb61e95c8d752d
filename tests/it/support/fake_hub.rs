//! A hub on loopback that does what a test wants: cuts, stalls, lies, refuses, sends elsewhere. What it was asked is
//! written down.

use serde_json::{Value, json};
use sha2::Digest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub const REPOSITORY: &str = "owner/tiny";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one answer.
#[derive(Clone)]
pub enum Fault {
    /// A status, with a header.
    Status(u16, &'static str),
    /// So many bytes of the body, and the end.
    CutAfter(usize),
    /// So many bytes of the body, and then none, until [`FakeHub::go_on`].
    StallAfter(usize),
    /// Pieces, with pauses between them.
    Slow(Duration),
    /// One byte of the body is another.
    Damage,
    /// The whole file, whatever range was asked for.
    NoRange,
    /// To the same path on another hub.
    Redirect(String),
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

#[derive(Default)]
struct ServerState {
    files: BTreeMap<String, Vec<u8>>,
    /// Sizes in the list that are not the files' own.
    pretended: BTreeMap<String, u64>,
    faults: Vec<(String, Fault)>,
    asked: Vec<Asked>,
    /// Bytes of files that were sent.
    sent: usize,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<ServerState>,
    gate: (Mutex<bool>, Condvar),
}

/// A running hub on a free port.
pub struct FakeHub {
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FakeHub {
    /// Without TLS, with these files.
    pub fn start(files: &[(&str, Vec<u8>)]) -> FakeHub {
        FakeHub::with(files, |stream| Box::new(stream))
    }

    /// `wrap` makes of a connection what is talked through.
    pub fn with(
        files: &[(&str, Vec<u8>)],
        wrap: impl Fn(TcpStream) -> Box<dyn Talk> + Send + Sync + 'static,
    ) -> FakeHub {
        let shared = Arc::new(Shared::default());
        let named = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone()));
        shared.state.lock().unwrap().files.extend(named);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, wrap) = (shared.clone(), Arc::new(wrap));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.state.lock().unwrap().over {
                    return;
                }
                let (state, wrap) = (state.clone(), wrap.clone());
                // A client that breaks off is no failure of the hub.
                std::thread::spawn(move || drop(answer(&state, wrap(stream.unwrap()))));
            }
        });
        FakeHub { port, shared, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next answer about a path that ends so goes wrong.
    pub fn spoil(&self, path: &str, fault: Fault) {
        self.shared.state.lock().unwrap().faults.push((path.to_owned(), fault));
    }

    /// The list says another size than the file has.
    pub fn pretend(&self, path: &str, size: u64) {
        self.shared.state.lock().unwrap().pretended.insert(path.to_owned(), size);
    }

    /// Lets the waiting requests go on.
    pub fn go_on(&self) {
        *self.shared.gate.0.lock().unwrap() = true;
        self.shared.gate.1.notify_all();
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    /// The ranges that were asked for of files whose path ends so, in order.
    pub fn ranges(&self, path: &str) -> Vec<Option<String>> {
        self.asked().into_iter().filter(|asked| asked.path.ends_with(path)).map(|asked| asked.range).collect()
    }

    /// The files that were asked for, in order.
    pub fn fetched(&self) -> Vec<String> {
        let name = |asked: Asked| Some(asked.path.split_once(&format!("{COMMIT}/"))?.1.to_owned());
        self.asked().into_iter().filter(|asked| asked.path.contains("/resolve/")).filter_map(name).collect()
    }

    pub fn sent(&self) -> usize {
        self.shared.state.lock().unwrap().sent
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().over = true;
        self.go_on();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

pub trait Talk: Read + Write + Send {}
impl<T: Read + Write + Send> Talk for T {}

/// The first line of a request, and its headers in lower case.
pub fn read_head(stream: &mut dyn Read) -> std::io::Result<(String, BTreeMap<String, String>)> {
    // Byte by byte, so that nothing behind the head is taken.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut lines = BufReader::new(&head[..]).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok((first, headers.collect()))
}

fn answer(shared: &Shared, mut stream: Box<dyn Talk>) -> std::io::Result<()> {
    let (first, headers) = read_head(&mut stream)?;
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let (range, token) = (headers.get("range").cloned(), headers.get("authorization").cloned());
    let (fault, reply) = {
        let mut state = shared.state.lock().unwrap();
        state.asked.push(Asked { path: path.clone(), range: range.clone(), token });
        let place = state.faults.iter().position(|(end, _)| path.ends_with(end.as_str()));
        (place.map(|place| state.faults.remove(place).1), reply(&state, &path))
    };
    let (status, mut body, is_file) = match reply {
        Reply::Json(value) => (200, value.to_string().into_bytes(), false),
        Reply::File(bytes) => (200, bytes, true),
        Reply::Refusal(status, header) => return refuse(&mut stream, status, header),
    };
    match &fault {
        Some(Fault::Status(status, header)) => return refuse(&mut stream, *status, header),
        Some(Fault::Redirect(base)) => {
            return refuse(&mut stream, 302, &format!("Location: {base}{target}\r\n"));
        }
        Some(Fault::Damage) => body[0] ^= 1,
        _ => {}
    }
    let whole = body.len();
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| is_file && !matches!(fault, Some(Fault::NoRange)));
    let (status, extra) = match from {
        Some(from) if from >= whole => return refuse(&mut stream, 416, ""),
        Some(from) => (206, format!("Content-Range: bytes {from}-{}/{whole}\r\n", whole - 1)),
        None => (status, String::new()),
    };
    let rest = &body[from.unwrap_or(0)..];
    let length = rest.len();
    write!(stream, "HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n")?;
    let send = |stream: &mut dyn Talk, bytes: &[u8]| -> std::io::Result<()> {
        stream.write_all(bytes)?;
        stream.flush()?;
        shared.state.lock().unwrap().sent += if is_file { bytes.len() } else { 0 };
        Ok(())
    };
    match fault {
        Some(Fault::CutAfter(most)) => send(&mut *stream, &rest[..most.min(length)]),
        Some(Fault::StallAfter(most)) => {
            send(&mut *stream, &rest[..most.min(length)])?;
            let open = shared.gate.1.wait_while(shared.gate.0.lock().unwrap(), |open| !*open).unwrap();
            drop(open);
            send(&mut *stream, &rest[most.min(length)..])
        }
        Some(Fault::Slow(pause)) => rest.chunks(length.div_ceil(8)).try_for_each(|piece| {
            std::thread::sleep(pause);
            send(&mut *stream, piece)
        }),
        _ => send(&mut *stream, rest),
    }
}

fn refuse(stream: &mut dyn Write, status: u16, header: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n{header}\r\n")
}

enum Reply {
    Json(Value),
    File(Vec<u8>),
    Refusal(u16, &'static str),
}

fn reply(state: &ServerState, path: &str) -> Reply {
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
    match parts[..] {
        ["api", "models", owner, name, _] if format!("{owner}/{name}") != REPOSITORY => {
            Reply::Refusal(401, "X-Error-Code: RepoNotFound\r\n")
        }
        ["api", "models", _, _, call] => match call.split_once('/') {
            Some(("revision", "main" | COMMIT | "v2")) => {
                Reply::Json(json!({"id": REPOSITORY, "sha": COMMIT}))
            }
            Some(("tree", COMMIT)) => Reply::Json(tree(state)),
            _ => Reply::Refusal(404, "X-Error-Code: RevisionNotFound\r\n"),
        },
        [_, _, "resolve", COMMIT, file] => match state.files.get(file) {
            Some(bytes) => Reply::File(bytes.clone()),
            None => Reply::Refusal(404, "X-Error-Code: EntryNotFound\r\n"),
        },
        _ => Reply::Refusal(404, ""),
    }
}

/// Weights are listed as large files, with their SHA-256; all others with the SHA-1 that Git gives them.
fn tree(state: &ServerState) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let files = state.files.iter().map(|(path, bytes)| {
        let size = state.pretended.get(path).copied().unwrap_or(bytes.len() as u64);
        let mut git = sha1::Sha1::new();
        git.update(format!("blob {}\0", bytes.len()));
        git.update(bytes);
        let mut entry = json!({"type": "file", "path": path, "size": size, "oid": hex(&git.finalize())});
        if path.ends_with(".safetensors") || path.ends_with(".bin") {
            entry["lfs"] =
                json!({"oid": hex(&sha2::Sha256::digest(bytes)), "size": size, "pointerSize": 134});
        }
        entry
    });
    let folders = [json!({"type": "directory", "path": "1_Pooling", "size": 0, "oid": "0".repeat(40)})];
    folders.into_iter().chain(files).collect()
}
