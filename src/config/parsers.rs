//! How the values of settings are read: each parser names its setting in the sentence about a value that is not allowed.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A sentence about a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is '{received}': expected {expected}")]
pub struct InvalidSetting {
    name: &'static str,
    received: String,
    expected: String,
}

impl InvalidSetting {
    /// That the setting `name` has this value, and what is allowed.
    pub fn new(name: &'static str, received: &str, expected: impl Into<String>) -> InvalidSetting {
        InvalidSetting { name, received: received.to_owned(), expected: expected.into() }
    }
}

/// A parser of numbers in a range; `what` they are, for the sentence.
pub(super) fn within<T>(
    name: &'static str,
    what: &'static str,
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, InvalidSetting> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + fmt::Display + Clone + Send + Sync + 'static,
{
    move |value| {
        let number = value.parse().ok().filter(|number| range.contains(number));
        let expected = || format!("{what} from {} to {}", range.start(), range.end());
        number.ok_or_else(|| InvalidSetting::new(name, value, expected()))
    }
}

/// A parser of truth values.
pub(super) fn switch(
    name: &'static str,
) -> impl Fn(&str) -> Result<bool, InvalidSetting> + Clone + Send + Sync + 'static {
    move |value| match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(InvalidSetting::new(name, value, "true or false")),
    }
}

/// A parser of whatever can be read from text.
pub(super) fn parsed<T>(
    name: &'static str,
) -> impl Fn(&str) -> Result<T, InvalidSetting> + Clone + Send + Sync + 'static
where
    T: FromStr<Err: fmt::Display> + Clone + Send + Sync + 'static,
{
    move |value| value.parse().map_err(|error: T::Err| InvalidSetting::new(name, value, error.to_string()))
}

/// A parser of secrets: its error does not repeat the value.
pub(super) fn secret<T>(
    name: &'static str,
) -> impl Fn(&str) -> Result<T, InvalidSetting> + Clone + Send + Sync + 'static
where
    T: FromStr<Err: fmt::Display> + Clone + Send + Sync + 'static,
{
    move |value| value.parse().map_err(|error: T::Err| InvalidSetting::new(name, "***", error.to_string()))
}
