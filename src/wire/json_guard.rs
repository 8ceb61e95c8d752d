//! Checks the bytes of a JSON text before it is parsed: nesting depth, and values that the parser would accept but
//! change. One pass, no recursion, no allocation.

use crate::error_code::ErrorCode;
use memchr::{memchr, memchr2};

/// Refuses what must not reach the parser. Text that is not JSON may pass: the parser reports it.
///
/// # Errors
/// NUL bytes, arrays and objects nested deeper than `nesting`, whole numbers beyond 64 bits; with a sentence for the
/// client.
pub fn check(json: &[u8], nesting: usize) -> Result<(), (ErrorCode, String)> {
    if let Some(at) = memchr(0, json) {
        return Err((ErrorCode::NulCharacter, format!("a NUL byte at column {}; remove it", at + 1)));
    }
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at + 1),
            b'[' | b'{' => {
                depth += 1;
                if depth > nesting {
                    let message = format!(
                        "nested too deep at column {}: expected at most {nesting} arrays and objects in each other",
                        at + 1
                    );
                    return Err((ErrorCode::NestedTooDeep, message));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let end = at + json[at..].iter().take_while(|byte| is_numeric(**byte)).count();
                if !keeps_its_value(&json[at..end]) {
                    let message = format!(
                        "number out of range at column {}: expected a whole number of at most 64 bits; send it as \
                         text or as a fraction",
                        at + 1
                    );
                    return Err((ErrorCode::NumberOutOfRange, message));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Index of the quote that ends the string whose first character is at `at`; `json.len()` when there is none.
pub(super) fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at;
        }
        at += 2;
    }
    json.len()
}

fn is_numeric(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// The parser reads a whole number beyond 64 bits as a float, which loses digits. It does not where the number is how a
/// float is written in full, as PostgreSQL writes those of `jsonb`.
fn keeps_its_value(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    // Eighteen digits always fit. Anything but digits is a fraction or not a number.
    if digits.len() < 19 || !digits.iter().all(u8::is_ascii_digit) {
        return true;
    }
    let text = std::str::from_utf8(number).unwrap_or_default();
    text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() || is_float_in_full(text)
}

/// Whether these digits are the shortest ones of a float, followed by zeros.
fn is_float_in_full(number: &str) -> bool {
    let Some(float) = number.parse::<f64>().ok().filter(|float| float.is_finite()) else { return false };
    let shortest = format!("{:e}", float.abs());
    let digits = number.trim_start_matches('-');
    shortest.split_once('e').is_some_and(|(mantissa, exponent)| {
        let zeros_cut = digits.trim_end_matches('0');
        mantissa.replace('.', "") == zeros_cut && exponent.parse() == Ok(digits.len() - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> Option<ErrorCode> {
        check(json.as_bytes(), 3).err().map(|(code, _)| code)
    }

    #[test]
    fn only_brackets_outside_strings_nest() {
        assert_eq!(code("[[[1],[2]],[[3]]]"), None);
        assert_eq!(code("[[[[1]]]]"), Some(ErrorCode::NestedTooDeep));
        assert_eq!(code(r#"{"[[[[": "\"[[[[", "a": ["\\"]}"#), None);
        assert_eq!(code(r#""no end [[[[ \"#), None);
        assert_eq!(code(&"[".repeat(100_000)), Some(ErrorCode::NestedTooDeep));
    }

    #[test]
    fn whole_numbers_are_kept_or_refused_and_never_rounded() {
        let googol = format!("1{}", "0".repeat(100));
        for good in [
            &googol,
            "-12345678900000000000000",
            "18446744073709551615",
            "-9223372036854775808",
            "1.00000000000000000001",
            "1e300",
            "-",
        ] {
            assert_eq!(code(good), None, "{good}");
        }
        for bad in
            ["[18446744073709551616]", "{\"a\":-9223372036854775809}", "123456789012345678901234567890"]
        {
            assert_eq!(code(bad), Some(ErrorCode::NumberOutOfRange), "{bad}");
        }
        assert_eq!(code("\"123456789012345678901234567890\""), None);
    }

    #[test]
    fn a_nul_byte_is_reported_with_its_column() {
        assert_eq!(check(b"{\"a\0\":1}", 3).unwrap_err().1, "a NUL byte at column 4; remove it");
    }
}
