//! Splits an object or an array of JSON into the bytes of its parts, which are read one by one: a part that is wrong is
//! then wrong alone, and takes memory alone. Only the structure around the parts is checked here.

use super::json_guard::end_of_string;

/// The structure is not that of JSON; the parser says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// What a splitter finds next: a part, the end, or bytes that belong to neither.
pub type NextPart<T> = Option<Result<T, Broken>>;

/// The parts of one object or array.
pub struct Splitter<'a> {
    json: &'a [u8],
    at: usize,
    close: u8,
    begun: bool,
    ended: bool,
}

impl<'a> Splitter<'a> {
    /// The parts of the object or array at the beginning of `json`, whose first byte is `open`. `None` for anything
    /// else.
    pub fn of(json: &'a [u8], open: u8) -> Option<Self> {
        let at = json.iter().position(|byte| !is_space(*byte)).filter(|at| json[*at] == open)?;
        let close = if open == b'{' { b'}' } else { b']' };
        Some(Splitter { json, at: at + 1, close, begun: false, ended: false })
    }

    /// The next element of an array.
    pub fn element(&mut self) -> NextPart<&'a [u8]> {
        Some(self.begin_part()?.and_then(|()| self.value().ok_or(Broken)))
    }

    /// The next key and value of an object.
    pub fn member(&mut self) -> NextPart<(&'a [u8], &'a [u8])> {
        let part = self.begin_part()?.and_then(|()| {
            let key = self.value().filter(|key| key.starts_with(b"\"")).ok_or(Broken)?;
            self.skip_space();
            self.take(b':').ok_or(Broken)?;
            self.skip_space();
            self.value().map(|value| (key, value)).ok_or(Broken)
        });
        self.ended |= part.is_err();
        Some(part)
    }

    /// The bytes behind the object or array, after its last part.
    pub fn rest(&self) -> &'a [u8] {
        self.json[self.at..].trim_ascii_start()
    }

    /// Goes to the beginning of the next part. `None` at the end.
    fn begin_part(&mut self) -> NextPart<()> {
        if self.ended {
            return None;
        }
        self.skip_space();
        if self.take(self.close).is_some() {
            self.ended = true;
            return None;
        }
        if std::mem::replace(&mut self.begun, true) {
            if self.take(b',').is_none() {
                self.ended = true;
                return Some(Err(Broken));
            }
            self.skip_space();
        }
        Some(Ok(()))
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        let found = self.json.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found.then_some(())
    }

    fn skip_space(&mut self) {
        while self.json.get(self.at).is_some_and(|byte| is_space(*byte)) {
            self.at += 1;
        }
    }

    /// The bytes of the value that begins here. `None` when there is none, or it does not end.
    fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let end = match self.json.get(start)? {
            b'"' => Some(end_of_string(self.json, start + 1) + 1),
            b'{' | b'[' => self.end_of_brackets(),
            _ => {
                let rest = &self.json[start..];
                let end = |byte: &u8| is_space(*byte) || matches!(byte, b',' | b']' | b'}' | b':');
                let length = rest.iter().position(end).unwrap_or(rest.len());
                (length > 0).then_some(start + length)
            }
        };
        let end = end.filter(|end| *end <= self.json.len());
        self.ended = end.is_none();
        self.at = end?;
        Some(&self.json[start..self.at])
    }

    /// The end of the brackets that open here. Both kinds count alike: what is between is for the parser.
    fn end_of_brackets(&self) -> Option<usize> {
        let (mut at, mut depth) = (self.at, 0_usize);
        loop {
            match self.json.get(at)? {
                b'"' => at = end_of_string(self.json, at + 1),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn elements(json: &str) -> Result<Vec<String>, Broken> {
        let mut parts = Splitter::of(json.as_bytes(), b'[').ok_or(Broken)?;
        let mut found = Vec::new();
        while let Some(part) = parts.element() {
            found.push(String::from_utf8(part?.to_vec()).unwrap());
        }
        if parts.rest().is_empty() { Ok(found) } else { Err(Broken) }
    }

    #[test]
    fn the_parts_are_found_whatever_is_inside() {
        let all = |json: &str| elements(json).unwrap();
        assert_eq!(all(" [ ] "), Vec::<String>::new());
        assert_eq!(
            all(r#"[{"a":"]}"}, [1,[2]] ,"x,\"y",3.5,null]"#),
            [r#"{"a":"]}"}"#, "[1,[2]]", r#""x,\"y""#, "3.5", "null"]
        );
        assert_eq!(all(r#"[{"a":1],{"b":[}},2]"#), [r#"{"a":1]"#, r#"{"b":[}}"#, "2"], "wrong alone");
        for broken in ["[1 2]", "[1,]", "[,1]", "[1", "[\"a]", "[{\"a\":1]", "[1]x", "{}", "", "[:]"] {
            assert_eq!(elements(broken), Err(Broken), "{broken}");
        }
    }

    #[test]
    fn the_members_of_an_object_are_keys_and_values() {
        let mut parts = Splitter::of(br#"{"a" : [1,2] , "b":{}} x"#, b'{').unwrap();
        assert_eq!(parts.member(), Some(Ok((&b"\"a\""[..], &b"[1,2]"[..]))));
        assert_eq!(parts.member(), Some(Ok((&b"\"b\""[..], &b"{}"[..]))));
        assert_eq!((parts.member(), parts.rest()), (None, &b"x"[..]));
        for broken in [&br#"{a:1}"#[..], br#"{"a"}"#, br#"{"a" 1}"#, br#"{"a":}"#, br#"{"a":1 "b":2}"#] {
            let mut parts = Splitter::of(broken, b'{').unwrap();
            let found: Vec<_> = std::iter::from_fn(|| parts.member()).collect();
            assert_eq!(found.last(), Some(&Err(Broken)), "{broken:?}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_parts_are_those_of_the_parser(values in proptest::collection::vec(any_json(), 0..6), pretty: bool) {
            let list = Value::from(values.clone());
            let json = if pretty { serde_json::to_string_pretty(&list).unwrap() } else { list.to_string() };
            let parts = elements(&json).unwrap();
            let read: Vec<Value> = parts.iter().map(|part| serde_json::from_str(part).unwrap()).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes in any::<Vec<u8>>()) {
            let json = [b"[", &bytes[..]].concat();
            let mut parts = Splitter::of(&json, b'[').unwrap();
            prop_assert!(std::iter::from_fn(|| parts.element()).count() <= json.len() + 1);
        }
    }
}
