//! Where a value of JSON ends, and how it is written on one line.

use bytes::Bytes;
use memchr::{memchr2, memchr2_iter};

/// Finds the end of a value, in as many pieces as there are.
#[derive(Debug, Default)]
pub struct ValueScan {
    begun: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ValueScan {
    /// The length up to the end of the value, if it is in these bytes.
    pub fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                if std::mem::take(&mut self.escaped) {
                    at += 1;
                    continue;
                }
                let found = memchr2(b'"', b'\\', &bytes[at..])?;
                at += found + 1;
                if bytes[at - 1] == b'\\' {
                    self.escaped = true;
                    continue;
                }
                self.in_string = false;
                if self.depth == 0 {
                    return Some(at);
                }
                continue;
            }
            let byte = bytes[at];
            match byte {
                b'"' if self.depth > 0 || !self.begun => self.in_string = true,
                b'{' | b'[' if self.depth > 0 || !self.begun => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                // A number or a word ends before what cannot belong to it.
                b',' | b'}' | b']' | b'{' | b'[' | b'"' | b':' if self.depth == 0 => return Some(at),
                _ if self.depth == 0 && byte.is_ascii_whitespace() => return Some(at),
                _ => {}
            }
            self.begun = true;
            at += 1;
        }
        None
    }

    /// Whether the end of the file would end the value: it is a number or a word.
    pub fn ends_with_the_file(&self) -> bool {
        self.depth == 0 && !self.in_string
    }
}

/// The value on one line: line breaks between its parts are spaces. `None` if one stands in a string, where JSON has
/// none.
pub fn on_one_line(value: Bytes) -> Option<Bytes> {
    if memchr2(b'\n', b'\r', &value).is_none() {
        return Some(value);
    }
    let mut line = value.to_vec();
    let mut at = 0;
    let mut in_string = false;
    for place in memchr2_iter(b'\n', b'\r', &value) {
        // Whether the break is in a string follows from the quotes before it.
        while let Some(found) = memchr2(b'"', b'\\', &value[at..place]) {
            at += found + 1;
            match value[at - 1] {
                b'"' => in_string = !in_string,
                _ if in_string => at += 1,
                _ => {}
            }
            if at > place {
                return None;
            }
        }
        if in_string {
            return None;
        }
        line[place] = b' ';
        at = place + 1;
    }
    Some(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_in_a_string_is_not_mended() {
        assert_eq!(on_one_line(Bytes::from_static(b"{\"a\":\n\"b\"}")).unwrap(), &b"{\"a\": \"b\"}"[..]);
        assert_eq!(on_one_line(Bytes::from_static(b"{\"a\":\"b\nc\"}")), None);
        assert_eq!(on_one_line(Bytes::from_static(b"{\"a\":\"b\\\nc\"}")), None);
    }
}
