//! The values of a JSON text, one by one and in flat memory: the elements of an array, those of `chunks` in a request,
//! or objects one after another, each over as many lines as it likes.

use super::error::damaged;
use super::value_scan::ValueScan;
use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, Read};

/// The bytes that are read at a time.
const READ: usize = 64 * 1024;
/// The most bytes of a value. White space counts; what is left of it must still fit into a line.
const LONGEST: usize = 16 * 1024 * 1024;

/// What the values lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// In nothing: they follow each other.
    Sequence,
    /// In an array, as its elements.
    Array,
    /// In the array `chunks` of an object, as in a request to the service.
    Request,
}

/// A value, or a member of a request that is not `chunks`.
#[derive(Debug, PartialEq, Eq)]
pub enum Element {
    /// The bytes of a value.
    Value(Bytes),
    /// A value that is longer than is taken; it was passed over.
    TooLong,
    /// An option of the request: its name and its JSON.
    Option(String, Bytes),
}

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Outside of everything.
    Outside,
    /// In an array, as its elements. `first`: nothing of it was read.
    InArray { first: bool },
    /// In the object of a request.
    InRequest { first: bool },
}

/// Reads the values of a text.
pub struct JsonElements<R> {
    file: R,
    container: Container,
    buffer: BytesMut,
    at_end: bool,
    place: Place,
    /// Values that were given.
    values: u64,
}

impl<R: Read> JsonElements<R> {
    /// The values of a file in UTF-8, without a byte order mark.
    pub fn new(file: R, container: Container) -> Self {
        let place = Place::Outside;
        JsonElements { file, container, buffer: BytesMut::new(), at_end: false, place, values: 0 }
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// The system's; the structure around the values is not that of JSON.
    pub fn next(&mut self) -> io::Result<Option<Element>> {
        loop {
            let byte = self.peek()?;
            match (self.place, byte) {
                (Place::Outside, None) => return Ok(None),
                (_, None) => return Err(self.broken("the file ends in the middle")),
                (Place::Outside, Some(byte)) => match (self.container, byte) {
                    // Between objects that were taken out of an array.
                    (Container::Sequence, b',') if self.values > 0 => self.buffer.advance(1),
                    (Container::Sequence, _) => return self.value().map(Some),
                    (Container::Array, b'[') => self.enter(Place::InArray { first: true }),
                    (Container::Request, b'{') => self.enter(Place::InRequest { first: true }),
                    _ => return Err(self.broken("something else follows")),
                },
                (Place::InArray { .. }, Some(b']')) => {
                    let outer = match self.container {
                        Container::Request => Place::InRequest { first: false },
                        _ => Place::Outside,
                    };
                    self.enter(outer);
                }
                (Place::InArray { first }, Some(_)) => {
                    self.separator(first)?;
                    self.place = Place::InArray { first: false };
                    return self.value().map(Some);
                }
                (Place::InRequest { .. }, Some(b'}')) => self.enter(Place::Outside),
                (Place::InRequest { first }, Some(_)) => {
                    self.separator(first)?;
                    self.place = Place::InRequest { first: false };
                    if let Some(option) = self.member()? {
                        return Ok(Some(option));
                    }
                }
            }
        }
    }

    /// Whether the reader is inside of an array.
    pub fn is_among_chunks(&self) -> bool {
        matches!(self.place, Place::InArray { .. })
    }

    /// A member of a request. `None`: its chunks begin.
    fn member(&mut self) -> io::Result<Option<Element>> {
        let name = match self.raw_value()? {
            Some(key) => {
                serde_json::from_slice::<String>(&key).map_err(|_| self.broken("a name is expected"))?
            }
            None => return Err(self.broken("a name is expected")),
        };
        if self.peek()? != Some(b':') {
            return Err(self.broken("a colon is expected"));
        }
        self.buffer.advance(1);
        if name == "chunks" && self.peek()? == Some(b'[') {
            self.enter(Place::InArray { first: true });
            return Ok(None);
        }
        self.peek()?;
        Ok(self.raw_value()?.map(|json| Element::Option(name, json)))
    }

    fn enter(&mut self, place: Place) {
        self.buffer.advance(1);
        self.place = place;
    }

    fn separator(&mut self, first: bool) -> io::Result<()> {
        if first {
            return Ok(());
        }
        if self.peek()? != Some(b',') {
            return Err(self.broken("a comma is missing"));
        }
        self.buffer.advance(1);
        match self.peek()? {
            // A comma behind the last one, as people leave it.
            Some(b']' | b'}') | None => Err(self.broken("a comma is followed by nothing")),
            Some(_) => Ok(()),
        }
    }

    fn value(&mut self) -> io::Result<Element> {
        let value = self.raw_value()?;
        self.values += 1;
        Ok(value.map_or(Element::TooLong, Element::Value))
    }

    /// The bytes of the value that begins here; `None` for one that is too long.
    fn raw_value(&mut self) -> io::Result<Option<Bytes>> {
        let mut scan = ValueScan::default();
        let mut at = 0;
        let mut too_long = false;
        loop {
            if let Some(length) = scan.end(&self.buffer[at..]) {
                let value = self.buffer.split_to(at + length).freeze();
                if value.is_empty() {
                    return Err(self.broken("a value is expected"));
                }
                return Ok((!too_long).then_some(value));
            }
            at = self.buffer.len();
            if at > LONGEST {
                too_long = true;
                self.buffer.clear();
                at = 0;
            }
            if self.at_end {
                // A number or a word has no other end.
                let value = self.buffer.split().freeze();
                let ended = scan.ends_with_the_file() && !value.is_empty();
                return if ended { Ok(Some(value)) } else { Err(self.broken("the file ends in the middle")) };
            }
            self.fill()?;
        }
    }

    /// The next byte that is no white space. `None` at the end.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(at) => {
                    self.buffer.advance(at);
                    return Ok(Some(self.buffer[0]));
                }
                None if self.at_end => return Ok(None),
                None => {
                    self.buffer.clear();
                    self.fill()?;
                }
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ, 0);
        let read = self.file.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(read) => self.at_end = read == 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn broken(&self, why: &str) -> io::Error {
        let place = match self.values {
            0 => "before the first value".to_owned(),
            values => format!("after value {values}"),
        };
        damaged(format!(
            "is no JSON {place}: {why}. What was before is sent; mend the file and send it again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::value_scan::on_one_line;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Gives one byte at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            Read::read(&mut self.0, &mut to[..1])
        }
    }

    fn all(text: &str, container: Container) -> Result<Vec<String>, String> {
        let read = |file: &mut dyn Read| {
            let mut elements = JsonElements::new(file, container);
            let mut found = Vec::new();
            while let Some(element) = elements.next().map_err(|error| error.to_string())? {
                found.push(match element {
                    Element::Value(json) => String::from_utf8(json.to_vec()).unwrap(),
                    Element::TooLong => "too long".to_owned(),
                    Element::Option(name, json) => format!("{name}={}", String::from_utf8_lossy(&json)),
                });
            }
            Ok(found)
        };
        let at_once = read(&mut text.as_bytes());
        assert_eq!(read(&mut Drip(text.as_bytes())), at_once);
        at_once
    }

    #[test]
    fn values_are_found_in_each_container() {
        let found = |text: &str, container| all(text, container).unwrap();
        assert_eq!(
            found("{\"a\":\n 1}\n{\"b\":\"}\\\"\"} [2] 3 \"x\" null", Container::Sequence),
            ["{\"a\":\n 1}", "{\"b\":\"}\\\"\"}", "[2]", "3", "\"x\"", "null"]
        );
        assert_eq!(found("{}{},\n{}", Container::Sequence), ["{}", "{}", "{}"]);
        assert_eq!(found("[ {\"a\":\"]\"} ,1]\n[2]", Container::Array), ["{\"a\":\"]\"}", "1", "2"]);
        assert_eq!(found("[]", Container::Array), Vec::<String>::new());
        let request = "{\"dataset_source\": \"d\", \"chunks\": [{\"text\":\"a\"},{}], \"batch_id\":7}\n{\"chunks\":[3]}";
        assert_eq!(
            found(request, Container::Request),
            ["dataset_source=\"d\"", "{\"text\":\"a\"}", "{}", "batch_id=7", "3"]
        );
        assert_eq!(found("", Container::Sequence), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_around_values_is_told_with_its_place() {
        for (text, container, words) in [
            ("[1 2]", Container::Array, "after value 1: a comma is missing"),
            ("[1,", Container::Array, "after value 1: a comma is followed by nothing"),
            ("[1,]", Container::Array, "after value 1: a comma is followed by nothing"),
            ("[{\"a\":1}", Container::Array, "after value 1: the file ends in the middle"),
            ("[{\"a\":1", Container::Array, "before the first value: the file ends in the middle"),
            ("[1] x", Container::Array, "after value 1: something else follows"),
            ("[:]", Container::Array, "a value is expected"),
            ("{\"a\":\"", Container::Sequence, "the file ends in the middle"),
            ("{chunks:[]}", Container::Request, "a name is expected"),
            ("{\"chunks\"[]}", Container::Request, "a colon is expected"),
        ] {
            let error = all(text, container).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_without_end_takes_bounded_memory_and_its_neighbours_stand() {
        let text = format!("[1,\"{}\",{{\"a\":2}}]", "x".repeat(3 * LONGEST));
        let mut elements = JsonElements::new(text.as_bytes(), Container::Array);
        let mut found = Vec::new();
        while let Some(element) = elements.next().unwrap() {
            found.push(element);
            assert!(elements.buffer.capacity() < 3 * LONGEST);
        }
        let value = |json: &'static str| Element::Value(Bytes::from_static(json.as_bytes()));
        assert_eq!(found, [value("1"), Element::TooLong, value("{\"a\":2}")]);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            "[\"\\\\\\[\\]{},:a\n]{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a\"\\\\]{0,3}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn pretty_or_not_the_values_are_those_of_the_parser(values in proptest::collection::vec(any_json(), 0..5)) {
            let array = Value::from(values.clone());
            let pretty = serde_json::to_string_pretty(&array).unwrap();
            let request = serde_json::to_string_pretty(&json!({"chunks": array})).unwrap();
            let sequence = values.iter().map(|value| serde_json::to_string_pretty(value).unwrap() + "\n").collect();
            for (text, container) in [
                (array.to_string(), Container::Array),
                (pretty, Container::Array),
                (request, Container::Request),
                (sequence, Container::Sequence),
            ] {
                let found = all(&text, container).unwrap();
                let read: Vec<Value> = found
                    .iter()
                    .map(|value| {
                        let line = on_one_line(value.clone().into()).unwrap();
                        assert!(!line.contains(&b'\n'));
                        serde_json::from_slice(&line).unwrap()
                    })
                    .collect();
                prop_assert_eq!(&read, &values);
            }
        }

        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for (container, begin) in [(Container::Array, "["), (Container::Sequence, ""), (Container::Request, "{")] {
                let text = [begin.as_bytes(), &bytes].concat();
                let mut elements = JsonElements::new(&text[..], container);
                let mut count = 0;
                while let Ok(Some(element)) = elements.next() {
                    if let Element::Value(value) = element {
                        on_one_line(value);
                    }
                    count += 1;
                    assert!(count <= text.len() + 1);
                }
            }
        }
    }
}
