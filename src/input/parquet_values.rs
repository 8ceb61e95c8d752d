//! Values of Parquet as JSON: nothing is lost that JSON can say, and what is no value is absent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::data_type::{ByteArray, Decimal};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};
use std::str;

/// How the values of a column are to be understood, where the library gives them only as they are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColumnReading {
    /// As the library gives them.
    #[default]
    Plain,
    /// Nanoseconds since 1970.
    Nanoseconds,
    /// The 16 bytes of a UUID.
    Uuid,
}

impl ColumnReading {
    /// By the type of a column.
    pub fn of(column: &Type) -> ColumnReading {
        match column.get_basic_info().logical_type_ref() {
            Some(LogicalType::Timestamp(timestamp)) if timestamp.unit == TimeUnit::NANOS => {
                ColumnReading::Nanoseconds
            }
            Some(LogicalType::Uuid) => ColumnReading::Uuid,
            _ => ColumnReading::Plain,
        }
    }

    /// The JSON of a value. `None` for null, and for fractions that are no numbers.
    pub fn json(self, value: &Field) -> Option<Value> {
        match (self, value) {
            (ColumnReading::Nanoseconds, Field::Long(nanoseconds)) => {
                time(DateTime::from_timestamp_nanos(*nanoseconds).into())
            }
            (ColumnReading::Uuid, Field::Bytes(bytes)) => match uuid::Uuid::from_slice(bytes.data()) {
                Ok(uuid) => Some(Value::String(uuid.to_string())),
                Err(_) => Some(bytes_json(bytes)),
            },
            (_, value) => json(value),
        }
    }
}

fn json(value: &Field) -> Option<Value> {
    Some(match value {
        Field::Null => return None,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => fraction(f64::from(*value))?,
        Field::Float(value) => single_fraction(*value)?,
        Field::Double(value) => fraction(*value)?,
        Field::Decimal(value) => Value::String(decimal(value)),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => bytes_json(bytes),
        Field::Date(days) => {
            let date = NaiveDate::default().checked_add_signed(TimeDelta::days(i64::from(*days)))?;
            Value::String(date.to_string())
        }
        Field::TimeMillis(time) => time_of_day(i64::from(*time) * 1000)?,
        Field::TimeMicros(time) => time_of_day(*time)?,
        Field::TimestampMillis(milliseconds) => return time(DateTime::from_timestamp_millis(*milliseconds)),
        Field::TimestampMicros(microseconds) => return time(DateTime::from_timestamp_micros(*microseconds)),
        Field::Group(row) => {
            let members =
                row.get_column_iter().filter_map(|(name, value)| Some((name.clone(), json(value)?)));
            Value::Object(members.collect())
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|value| json(value).unwrap_or(Value::Null)).collect())
        }
        Field::MapInternal(map) => {
            let members = map.entries().iter().filter_map(|(key, value)| Some((key_text(key), json(value)?)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    })
}

fn key_text(key: &Field) -> String {
    match json(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn fraction(value: f64) -> Option<Value> {
    Number::from_f64(value).map(Value::Number)
}

/// The shortest digits that mean this fraction of 32 bits.
fn single_fraction(value: f32) -> Option<Value> {
    if !value.is_finite() {
        return None;
    }
    serde_json::from_str(&serde_json::to_string(&value).ok()?).ok()
}

fn time(time: Option<DateTime<chrono::Utc>>) -> Option<Value> {
    time.map(|time| Value::String(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
}

fn time_of_day(microseconds: i64) -> Option<Value> {
    let seconds = u32::try_from(microseconds.div_euclid(1_000_000)).ok()?;
    let nanoseconds = u32::try_from(microseconds.rem_euclid(1_000_000) * 1000).ok()?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanoseconds)?;
    Some(Value::String(time.to_string()))
}

/// Text where the bytes are text, as some writers store it, else base64.
fn bytes_json(bytes: &ByteArray) -> Value {
    match str::from_utf8(bytes.data()) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => Value::String(STANDARD.encode(bytes.data())),
    }
}

/// All digits, with the point where the scale puts it.
fn decimal(value: &Decimal) -> String {
    let number = big_endian(value.data());
    let scale = usize::try_from(value.scale()).unwrap_or(0);
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits.to_owned()),
        None => ("", number),
    };
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, rest) = digits.split_at(digits.len() - scale);
    if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest}") }
}

/// The decimal digits of a signed number of any length, most significant byte first.
fn big_endian(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    // Of a negative number the two's complement is its absolute value.
    let mut magnitude: Vec<u8> = bytes.iter().map(|byte| if negative { !byte } else { *byte }).collect();
    if negative {
        for byte in magnitude.iter_mut().rev() {
            let (sum, carries) = byte.overflowing_add(1);
            *byte = sum;
            if !carries {
                break;
            }
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u32;
        for byte in &mut magnitude {
            let part = rest * 256 + u32::from(*byte);
            // Both are below the divisor times 256.
            *byte = u8::try_from(part / 10).unwrap_or(u8::MAX);
            rest = part % 10;
        }
        digits.push(char::from_digit(rest, 10).unwrap_or('0'));
    }
    let digits: String = digits.iter().rev().collect();
    let digits = if digits.is_empty() { "0".to_owned() } else { digits };
    if negative { format!("-{digits}") } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_and_what_is_none_is_absent() {
        let said = |value: &Field| json(value).map(|json| json.to_string());
        let text = |text: &str| Some(format!("\"{text}\""));
        assert_eq!(said(&Field::Null), None);
        assert_eq!(said(&Field::Double(f64::NAN)), None);
        assert_eq!(said(&Field::Float(f32::INFINITY)), None);
        assert_eq!(said(&Field::Float(0.1)), Some("0.1".to_owned()), "not the digits of 64 bits");
        assert_eq!(said(&Field::ULong(u64::MAX)), Some(u64::MAX.to_string()));
        assert_eq!(said(&Field::Date(19_000)), text("2022-01-08"));
        assert_eq!(said(&Field::Date(-1)), text("1969-12-31"));
        assert_eq!(said(&Field::TimestampMillis(1_541_186_529_153)), text("2018-11-02T19:22:09.153Z"));
        assert_eq!(said(&Field::TimestampMicros(-1)), text("1969-12-31T23:59:59.999999Z"));
        assert_eq!(said(&Field::TimeMillis(3_723_004)), text("01:02:03.004"));
        assert_eq!(said(&Field::Bytes(ByteArray::from("plain"))), text("plain"));
        assert_eq!(said(&Field::Bytes(ByteArray::from(vec![0xff, 0]))), text("/wA="));
        let nanoseconds = ColumnReading::Nanoseconds.json(&Field::Long(1_541_186_529_153_123_456));
        assert_eq!(nanoseconds, Some("2018-11-02T19:22:09.153123456Z".into()));
    }

    #[test]
    fn decimals_keep_all_their_digits() {
        let said = |bytes: &[u8], scale: i32| decimal(&Decimal::from_bytes(bytes.to_vec().into(), 38, scale));
        assert_eq!(said(&1_250_i32.to_be_bytes(), 2), "12.50");
        assert_eq!(said(&(-7_i32).to_be_bytes(), 3), "-0.007");
        assert_eq!(said(&5_i64.to_be_bytes(), 0), "5");
        assert_eq!(said(&i128::MIN.to_be_bytes(), 10), "-17014118346046923173168730371.5884105728");
        assert_eq!(said(&[0], 2), "0.00");
    }
}
