//! Numbers of chunks as people read them.

/// `1 chunk`, `1,234 chunks`.
pub(super) fn chunks(count: u64) -> String {
    if count == 1 { "1 chunk".to_owned() } else { format!("{} chunks", thousands(count)) }
}

/// A number with a comma between groups of three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!((chunks(1), chunks(1_234)), ("1 chunk".to_owned(), "1,234 chunks".to_owned()));
    }
}
