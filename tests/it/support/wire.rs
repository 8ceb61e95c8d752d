//! The messages of a PostgreSQL client and of its server, cut out of their byte streams.

use std::collections::HashMap;

/// Statements that write a batch begin so.
const WRITES: &str = "WITH incoming AS MATERIALIZED (SELECT * FROM ROWS FROM (unnest($1";
/// The statement that stores new rows, a transaction of its own.
const TAKES_NUMBERS: &str = "new_chunk_numbers(";

/// A whole message.
pub struct Message {
    /// As it travels.
    pub bytes: Vec<u8>,
    /// The type; 0 for the first message of a client.
    pub kind: u8,
    /// The SQL that is executed with it: of a query, and of the statement that a Bind names.
    pub sql: String,
}

impl Message {
    /// It stores a batch.
    pub fn stores(&self) -> bool {
        self.sql.starts_with(WRITES) && self.sql.contains(TAKES_NUMBERS)
    }

    /// It replaces rows, in a transaction that has the lock of the clock.
    pub fn replaces(&self) -> bool {
        self.sql.starts_with(WRITES) && !self.sql.contains(TAKES_NUMBERS)
    }

    /// The server answers everything up to it, and says that it is ready for the next.
    pub fn wants_answer(&self) -> bool {
        matches!(self.kind, b'S' | b'Q')
    }
}

/// One direction of a connection.
pub struct Messages {
    waiting: Vec<u8>,
    /// The next message has no type: it is the first one of a client.
    untyped: bool,
    prepared: HashMap<Vec<u8>, String>,
}

impl Messages {
    pub fn of_client() -> Messages {
        Messages { waiting: Vec::new(), untyped: true, prepared: HashMap::new() }
    }

    pub fn of_server() -> Messages {
        Messages { untyped: false, ..Messages::of_client() }
    }

    /// Takes bytes, and gives the messages that are complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.waiting.extend_from_slice(bytes);
        let (mut complete, mut at) = (Vec::new(), 0);
        while let Some(size) = self.size_of_next(at) {
            let bytes = self.waiting[at..at + size].to_vec();
            complete.push(self.message(bytes));
            at += size;
        }
        self.waiting.drain(..at);
        complete
    }

    fn size_of_next(&self, at: usize) -> Option<usize> {
        let kind = usize::from(!(self.untyped && at == 0));
        let length = self.waiting.get(at + kind..at + kind + 4)?;
        let size = kind + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        (self.waiting.len() >= at + size).then_some(size)
    }

    fn message(&mut self, bytes: Vec<u8>) -> Message {
        let kind = if std::mem::take(&mut self.untyped) { 0 } else { bytes[0] };
        let mut texts = bytes.get(5..).unwrap_or_default().split(|byte| *byte == 0);
        let sql = match kind {
            b'Q' => String::from_utf8_lossy(texts.next().unwrap()).into_owned(),
            b'B' => texts.nth(1).and_then(|name| self.prepared.get(name)).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        let message = Message { bytes, kind, sql };
        self.prepare(&message);
        message
    }

    fn prepare(&mut self, message: &Message) {
        if message.kind == b'P' {
            let mut texts = message.bytes[5..].split(|byte| *byte == 0);
            let (name, sql) = (texts.next().unwrap().to_vec(), texts.next().unwrap());
            self.prepared.insert(name, String::from_utf8_lossy(sql).into_owned());
        }
    }
}
