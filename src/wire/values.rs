//! Values as clients really write them: a whole number as `3.0` or `"005"`, an id as a number, a truth value as `"True"`
//! or `1`. Each is read to the one value it means, or refused with what is expected. The same types read JSON and query
//! strings. `null` is absence, so they are used inside an `Option`.

use super::words::UNKNOWN_VALUE;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Up to here every whole number is a 64-bit fraction of its own, so a fraction means exactly one whole number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A value that is read tolerantly.
trait Tolerant: Sized {
    const EXPECTED: &'static str;

    fn of_integer(value: i128) -> Option<Self>;

    /// The number is finite.
    fn of_fraction(value: f64) -> Option<Self>;

    fn of_text(text: &str) -> Option<Self>;

    fn of_truth(_: bool) -> Option<Self> {
        None
    }

    /// The value has the right type, and is too large or too small for it.
    fn is_beyond(_: f64) -> bool {
        false
    }
}

struct TolerantVisitor<T>(PhantomData<T>);

impl<T: Tolerant> Visitor<'_> for TolerantVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        T::of_truth(value).ok_or_else(|| E::invalid_type(Unexpected::Bool(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        T::of_integer(value.into()).ok_or_else(|| E::invalid_type(Unexpected::Signed(value), &self))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        T::of_integer(value.into()).ok_or_else(|| {
            let beyond = T::is_beyond(value as f64);
            let received = Unexpected::Unsigned(value);
            if beyond { E::invalid_value(received, &self) } else { E::invalid_type(received, &self) }
        })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        T::of_fraction(value).ok_or_else(|| {
            let received = Unexpected::Float(value);
            if T::is_beyond(value) {
                E::invalid_value(received, &self)
            } else {
                E::invalid_type(received, &self)
            }
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of_text(text).ok_or_else(|| {
            let beyond = whole_digits(text).is_some() && T::is_beyond(f64::INFINITY);
            let received = Unexpected::Str(text);
            if beyond { E::invalid_value(received, &self) } else { E::invalid_type(received, &self) }
        })
    }
}

macro_rules! deserialize_tolerantly {
    ($($name:ty),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TolerantVisitor(PhantomData))
            }
        }
    )+};
}

deserialize_tolerantly!(WholeNumber, AnyNumber, Name, Truth);

/// A whole number of 64 bits. Also `3.0`, `"3"`, `"005"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeNumber(pub i64);

impl Tolerant for WholeNumber {
    const EXPECTED: &'static str = "a whole number of at most 64 bits";

    fn of_integer(value: i128) -> Option<Self> {
        i64::try_from(value).ok().map(WholeNumber)
    }

    fn of_fraction(value: f64) -> Option<Self> {
        // Exact: it has no fraction and is small enough.
        (value.fract() == 0.0 && value.abs() <= MAX_EXACT).then_some(WholeNumber(value as i64))
    }

    fn of_text(text: &str) -> Option<Self> {
        whole_digits(text)?.parse().ok().map(WholeNumber)
    }

    fn is_beyond(value: f64) -> bool {
        value.fract() == 0.0 || value.is_infinite()
    }
}

/// The digits of a whole number that is written as text, with its sign: `" 005.0 "` is `005`.
fn whole_digits(text: &str) -> Option<&str> {
    let text = text.trim();
    let number = match text.split_once('.') {
        Some((number, zeros)) if zeros.bytes().all(|byte| byte == b'0') => number,
        Some(_) => return None,
        None => text,
    };
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

/// A finite number, also as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnyNumber(pub f64);

impl Tolerant for AnyNumber {
    const EXPECTED: &'static str = "a number";

    fn of_integer(value: i128) -> Option<Self> {
        Some(AnyNumber(value as f64))
    }

    fn of_fraction(value: f64) -> Option<Self> {
        Some(AnyNumber(value))
    }

    fn of_text(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|value: &f64| value.is_finite()).map(AnyNumber)
    }
}

/// An id or another name: a text, or a whole number, which becomes its decimal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl Tolerant for Name {
    const EXPECTED: &'static str = "a text or a whole number";

    fn of_integer(value: i128) -> Option<Self> {
        Some(Name(value.to_string()))
    }

    fn of_fraction(value: f64) -> Option<Self> {
        WholeNumber::of_fraction(value).map(|WholeNumber(value)| Name(value.to_string()))
    }

    fn of_text(text: &str) -> Option<Self> {
        Some(Name(text.to_owned()))
    }

    fn is_beyond(value: f64) -> bool {
        WholeNumber::is_beyond(value)
    }
}

/// True or false. Also `1` and `0`, and the words of other languages and shells in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truth(pub bool);

impl Tolerant for Truth {
    const EXPECTED: &'static str = "true or false";

    fn of_integer(value: i128) -> Option<Self> {
        match value {
            0 => Some(Truth(false)),
            1 => Some(Truth(true)),
            _ => None,
        }
    }

    fn of_fraction(value: f64) -> Option<Self> {
        WholeNumber::of_fraction(value).and_then(|WholeNumber(value)| Truth::of_integer(value.into()))
    }

    fn of_text(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "y" | "on" | "t" => Some(Truth(true)),
            "false" | "0" | "no" | "n" | "off" | "f" => Some(Truth(false)),
            _ => None,
        }
    }

    fn of_truth(value: bool) -> Option<Self> {
        Some(Truth(value))
    }
}

/// Reads one of a closed list of words, in any case.
pub fn one_of<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    words: &[(&'static str, T)],
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let expected: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let received = super::words::quoted(&text);
        D::Error::custom(format_args!(
            "{UNKNOWN_VALUE}: expected {}, received {received:?}",
            expected.join(" or ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_str;

    #[test]
    fn whole_numbers_are_read_however_they_are_written_and_never_rounded() {
        let read = |json: &str| from_str::<WholeNumber>(json).map(|WholeNumber(value)| value).ok();
        for (json, value) in [
            ("3", 3),
            ("3.0", 3),
            ("-4e2", -400),
            ("\"005\"", 5),
            ("\" 6.0 \"", 6),
            ("\"-7\"", -7),
            ("\"+8\"", 8),
            ("9223372036854775807", i64::MAX),
            ("\"-9223372036854775808\"", i64::MIN),
            ("9007199254740992.0", 1 << 53),
        ] {
            assert_eq!(read(json), Some(value), "{json}");
        }
        for json in [
            "3.5",
            "\"3.5\"",
            "\"\"",
            "\"three\"",
            "\"1e3\"",
            "\"0x10\"",
            "true",
            "[]",
            "{}",
            "9223372036854775808",
            "1e30",
            "\"9223372036854775808\"",
            "9007199254740994.0",
            "null",
        ] {
            assert_eq!(read(json), None, "{json}");
        }
        let message = |json: &str| from_str::<WholeNumber>(json).unwrap_err().to_string();
        for beyond in ["9223372036854775808", "1e30", "\"99999999999999999999\""] {
            assert!(message(beyond).starts_with("invalid value"), "{beyond}");
        }
        assert!(message("3.5").starts_with("invalid type"));
    }

    #[test]
    fn names_may_be_whole_numbers() {
        let read = |json: &str| from_str::<Name>(json).map(|Name(name)| name).ok();
        for (json, name) in [
            ("\"007\"", "007"),
            ("7", "7"),
            ("7.0", "7"),
            ("-1", "-1"),
            ("18446744073709551615", "18446744073709551615"),
            ("\"\"", ""),
        ] {
            assert_eq!(read(json).as_deref(), Some(name), "{json}");
        }
        for json in ["7.5", "1e30", "true", "[1]", "{\"a\":1}", "null"] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn truth_has_many_words() {
        let read = |json: &str| from_str::<Truth>(json).map(|Truth(value)| value).ok();
        for json in ["true", "\"True\"", "\"TRUE\"", "1", "\"1\"", "\"yes\"", "\"Yes\"", "1.0"] {
            assert_eq!(read(json), Some(true), "{json}");
        }
        for json in ["false", "\"False\"", "0", "\"0\"", "\"no\"", "\"NO\""] {
            assert_eq!(read(json), Some(false), "{json}");
        }
        for json in ["2", "\"perhaps\"", "\"\"", "[]", "null"] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        let read = |json: &str| from_str::<AnyNumber>(json).map(|AnyNumber(value)| value).ok();
        assert_eq!([read("2"), read("0.5"), read("\"0.5\"")], [Some(2.0), Some(0.5), Some(0.5)]);
        assert_eq!([read("\"NaN\""), read("\"inf\""), read("\"\""), read("true")], [None; 4]);
    }
}
