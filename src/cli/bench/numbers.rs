//! Medians, percentiles, and numbers as people read them.

use std::time::Duration;

/// The middle; of an even number of values the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The smallest value that at least `percent` of the values do not exceed; 0 of none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// The arithmetic mean; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// In milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Milliseconds, as in `1,483.2 ms`.
pub fn show_ms(ms: f64) -> String {
    let text = format!("{:.1}", ms.abs());
    let (whole, tenth) = text.split_once('.').unwrap_or((&text, "0"));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if ms < 0.0 { "-" } else { "" };
    format!("{sign}{grouped}.{tenth} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_ranks() {
        assert_eq!(
            (median(&[]), median(&[3.0]), median(&[4.0, 1.0]), median(&[9.0, 1.0, 2.0])),
            (0.0, 3.0, 2.5, 2.0)
        );
        let values: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 50.0), percentile(&values, 95.0), percentile(&values, 99.0)),
            (15.0, 29.0, 30.0)
        );
        assert_eq!((percentile(&[7.0], 1.0), percentile(&[], 50.0)), (7.0, 0.0));
        assert_eq!((mean(&[1.0, 2.0]), mean(&[])), (1.5, 0.0));
    }

    #[test]
    fn milliseconds_are_grouped() {
        let shown = [0.04, 52.0, 999.95, 1483.24, 10_200.0, 1_234_567.0, -1483.24].map(show_ms);
        let expected =
            ["0.0 ms", "52.0 ms", "1,000.0 ms", "1,483.2 ms", "10,200.0 ms", "1,234,567.0 ms", "-1,483.2 ms"];
        assert_eq!(shown, expected);
    }
}
