//! Filters: which rows a search may find. Pure: no I/O, no runtime.

mod filter_fields;
mod term;

pub use filter_fields::{FieldValues, FilterFields};
pub use term::{TERM_BITS, Term, TermField};

/// A condition on the fields of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// The row has one of these terms.
    Has(Vec<Term>),
    /// The row was stored at this microsecond since 1970 or later, and before that one.
    Stored {
        /// The first microsecond that matches.
        from: i64,
        /// The first one after it that does not.
        until: i64,
    },
    /// Every one matches. Without any, every row does.
    All(Vec<Filter>),
    /// At least one matches. Without any, no row does.
    Any(Vec<Filter>),
    /// The condition does not match.
    Not(Box<Filter>),
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::All(Vec::new())
    }
}

impl Filter {
    /// Whether it lets every row pass.
    pub fn is_everything(&self) -> bool {
        matches!(self, Filter::All(conditions) if conditions.iter().all(Filter::is_everything))
    }

    /// The number of values and conditions in it: what a search has to look up.
    pub fn size(&self) -> usize {
        match self {
            Filter::Has(terms) => terms.len().max(1),
            Filter::Stored { .. } => 1,
            Filter::All(conditions) | Filter::Any(conditions) => {
                1 + conditions.iter().map(Filter::size).sum::<usize>()
            }
            Filter::Not(condition) => 1 + condition.size(),
        }
    }

    /// Whether a row with these fields matches.
    pub fn matches(&self, row: &FilterFields) -> bool {
        match self {
            Filter::Has(terms) => terms.iter().any(|term| row.terms.contains(term)),
            Filter::Stored { from, until } => (*from..*until).contains(&row.created_at),
            Filter::All(conditions) => conditions.iter().all(|condition| condition.matches(row)),
            Filter::Any(conditions) => conditions.iter().any(|condition| condition.matches(row)),
            Filter::Not(condition) => !condition.matches(row),
        }
    }
}
