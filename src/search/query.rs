//! What a search asks for.

use super::error::SearchError;
use super::ranking::Collapse;
use crate::chunk::{MAX_TEXT_BYTES, is_blank};
use crate::filter::Filter;

/// The largest `top_k` of one search.
pub const MAX_RESULTS: usize = 1000;

/// The text or vector that a search compares with.
#[derive(Debug, Clone)]
pub enum SearchTarget {
    /// A text, to be embedded by the model of the store.
    Text(String),
    /// A vector of as many numbers as the model of the store has dimensions, finite and not zero. Its length does not matter.
    Vector(Vec<f32>),
}

/// The vectors of a chunk that a search compares with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SearchIn {
    /// That of the concept, or of the text: every chunk has one.
    #[default]
    Concept,
    /// That of the question: chunks without one are not found.
    Question,
    /// Both: the better one counts.
    Both,
}

/// What rows are scored by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum SearchBy {
    /// The cosine of their vectors.
    #[default]
    Vector,
    /// The words of their texts. No vector is made of the query.
    Keyword,
    /// The weighted mean of both scores.
    Both {
        /// 0 to 1: the weight of the words against the cosine.
        keyword_weight: f32,
    },
}

/// The parameters of one search.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// The text or vector to compare with.
    pub target: SearchTarget,
    /// What rows are scored by.
    pub by: SearchBy,
    /// What it is compared with.
    pub search_in: SearchIn,
    /// The number of results, 1 to [`MAX_RESULTS`].
    pub top_k: usize,
    /// Only matching rows are returned and counted.
    pub filter: Filter,
    /// 0 to 1: the weight of the similarity of TMD codes against that of vectors. Above 0 it needs a text.
    pub tmd_weight: f32,
    /// Of rows that are alike only the best is returned.
    pub collapse: Collapse,
    /// 0 to 1: the weight of being unlike the results before, against being like the query. 0 is the plain order.
    pub diversity: f32,
    /// Waits until the index reflects this clock value.
    pub min_seq: Option<i64>,
}

impl SearchQuery {
    /// Whether it can be answered by a store with vectors of so many dimensions.
    pub(super) fn check(&self, dims: usize) -> Result<(), SearchError> {
        let wrong = |param, message| Err(SearchError::Invalid { param, message });
        if !(1..=MAX_RESULTS).contains(&self.top_k) {
            return wrong("top_k", format!("top_k: expected 1 to {MAX_RESULTS}, received {}", self.top_k));
        }
        if !(0.0..=1.0).contains(&self.tmd_weight) {
            return wrong("tmd_weight", format!("tmd_weight: expected 0 to 1, received {}", self.tmd_weight));
        }
        if !(0.0..=1.0).contains(&self.diversity) {
            let message = format!("diversity: expected 0 to 1, received {}", self.diversity);
            return wrong("diversity", message);
        }
        if self.by != SearchBy::Vector && self.search_in != SearchIn::Concept {
            let message =
                "search_in: expected concept, because keywords are searched in the texts of the chunks";
            return wrong("search_in", message.into());
        }
        if let SearchBy::Both { keyword_weight } = self.by
            && !(0.0..=1.0).contains(&keyword_weight)
        {
            let message = format!("keyword_weight: expected 0 to 1, received {keyword_weight}");
            return wrong("keyword_weight", message);
        }
        match &self.target {
            SearchTarget::Text(text) if is_blank(text) => {
                wrong("query", "query is empty or has only invisible characters".into())
            }
            SearchTarget::Text(text) if text.len() > MAX_TEXT_BYTES => wrong(
                "query",
                format!("query too long: expected at most {MAX_TEXT_BYTES} bytes, received {}", text.len()),
            ),
            SearchTarget::Vector(_) if self.by != SearchBy::Vector => {
                wrong("mode", "mode: keyword and hybrid need a query text".into())
            }
            SearchTarget::Vector(_) if self.tmd_weight > 0.0 => wrong(
                "tmd_weight",
                "tmd_weight needs a query text: codes cannot be found for a vector".into(),
            ),
            SearchTarget::Vector(vector) if vector.len() != dims => {
                wrong("vector", format!("vector: expected {} numbers, received {}", dims, vector.len()))
            }
            SearchTarget::Vector(vector)
                if !vector.iter().all(|x| x.is_finite()) || vector.iter().all(|x| *x == 0.0) =>
            {
                wrong("vector", "vector: expected finite numbers, not all zero".into())
            }
            _ => Ok(()),
        }
    }
}
