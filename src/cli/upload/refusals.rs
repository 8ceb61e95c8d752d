//! Why lines were refused: by code, for the table at the end, and one by one for those who want to mend them.

use super::answer::UploadFailure;
use crate::error_code::ErrorCode;
use crate::output::{escape, print_block};
use comfy_table::{ContentArrangement, Table, presets};
use std::collections::BTreeMap;
use std::io;

/// The width of the table where the terminal has none, or less than it takes.
const WIDTH: u16 = 80;

/// One line that was refused for good.
#[derive(Debug)]
pub struct RefusedChunk<'a> {
    /// The name of its source.
    pub source: &'a str,
    /// Its number in the source.
    pub line: u64,
    /// What the number counts.
    pub unit: &'static str,
    /// Why it was refused.
    pub failure: &'a UploadFailure,
    /// The line as it was sent, or as it was read if nothing was sent. `None` if it was not kept.
    pub content: Option<&'a [u8]>,
}

/// Takes each line that was refused, as soon as it is known.
pub trait RefusalSink {
    /// Takes one.
    ///
    /// # Errors
    /// It cannot be written. The upload goes on without this sink.
    fn take(&mut self, refusal: &RefusedChunk<'_>) -> io::Result<()>;
}

/// The refusals with one code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CodeRefusals {
    count: u64,
    /// Where the first of them is, and what was said of it.
    first: String,
    message: String,
}

/// Refused lines by their codes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusalTable {
    codes: BTreeMap<String, CodeRefusals>,
}

impl RefusalTable {
    /// Counts a refusal; returns how many have its code now.
    pub fn add(&mut self, refusal: &RefusedChunk<'_>) -> u64 {
        let entry = self.codes.entry(refusal.failure.code.clone()).or_insert_with(|| CodeRefusals {
            count: 0,
            // The whole path would leave no room for the advice.
            first: format!(
                "{} {} {}",
                refusal.source.rsplit('/').next().unwrap_or_default(),
                refusal.unit,
                refusal.line
            ),
            message: refusal.failure.message.clone(),
        });
        entry.count += 1;
        entry.count
    }

    /// Takes the refusals of another source.
    pub fn merge(&mut self, other: RefusalTable) {
        for (code, refusals) in other.codes {
            match self.codes.get_mut(&code) {
                Some(before) => before.count += refusals.count,
                None => drop(self.codes.insert(code, refusals)),
            }
        }
    }

    /// Whether no line was refused.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// Prints the table: code, number, the first line, and what to do.
    pub fn print(&self) {
        if !self.is_empty() {
            print_block(self.table());
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none_or(|width| width < WIDTH) {
            table.set_width(WIDTH);
        }
        table.set_header(["refused", "chunks", "the first", "what to do"]);
        let mut rows: Vec<_> = self.codes.iter().collect();
        rows.sort_by_key(|(_, refusals)| std::cmp::Reverse(refusals.count));
        for (code, refusals) in rows {
            let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
            // A service of another version can have codes that are not known here.
            let advice = known.map_or(refusals.message.as_str(), |known| known.info().advice);
            let cells = [code.clone(), refusals.count.to_string(), refusals.first.clone(), advice.to_owned()];
            // A line break in a cell would be taken for one of the table.
            table.add_row(cells.map(|cell| escape(&cell)));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(codes: &[(&str, &str, u64)]) -> RefusalTable {
        let mut table = RefusalTable::default();
        for (source, code, line) in codes {
            let failure =
                UploadFailure { code: (*code).to_owned(), message: "as said".to_owned(), retryable: false };
            table.add(&RefusedChunk { source, line: *line, unit: "row", failure: &failure, content: None });
        }
        table
    }

    #[test]
    fn the_table_counts_codes_and_names_the_first_line_and_what_to_do() {
        let mut all =
            table(&[("a.csv", "text_empty", 7), ("a.csv", "text_empty", 3), ("a.csv", "\u{1b}[2J", 1)]);
        all.merge(table(&[("b.csv", "text_empty", 1), ("b.csv", "id_conflict", 5)]));
        let shown = all.table().to_string();
        let line = |code: &str| shown.lines().find(|line| line.contains(code)).unwrap().to_owned();
        assert!(line("text_empty").contains(" 3 ") && line("text_empty").contains("a.csv row 7"), "{shown}");
        assert!(line("id_conflict").contains("b.csv row 5"), "{shown}");
        assert!(shown.contains("leave the chunk") && shown.contains("as said"), "{shown}");
        assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}[2J"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{shown}");
        let order: Vec<usize> = ["text_empty", "id_conflict"].map(|code| shown.find(code).unwrap()).to_vec();
        assert!(order.is_sorted(), "the most frequent is first: {shown}");
    }
}
