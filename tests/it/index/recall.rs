//! With the defaults, the trees find what looking at everything finds.

use super::truth::{Truth, identity, unit, vector};
use lnsp_ingest::index::{Effort, Index, IndexIdentity, IndexOptions, SearchMode};
use std::num::NonZeroUsize;
use std::sync::Arc;

const DIMS: usize = 64;
const ROWS: u32 = 6_000;
const CLUSTERS: u32 = 40;

/// Texts of one topic: half of what a vector says is its cluster's, so neighbours have a cosine of about 0.5.
fn clustered(n: u32) -> Arc<[f32]> {
    let (own, center) = (vector(n, 1, DIMS), vector(n % CLUSTERS, 2, DIMS));
    unit(&own.iter().zip(center.iter()).map(|(own, center)| own + center).collect::<Vec<_>>())
}

fn recall(index: &Index, effort: Effort) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for n in 0..50 {
        let query = clustered(1_000_000 + 37 * n);
        let best = index.search(&query, 10, Effort::Exact).unwrap();
        let walked = index.search(&query, 10, effort).unwrap();
        assert_eq!((best.mode, walked.mode), (SearchMode::Exact, SearchMode::Ann));
        for (item, cosine) in &walked.hits {
            // Both searches give scores on one scale.
            let exact = best.hits.iter().find(|(other, _)| other == item);
            found += u32::from(exact.is_some_and(|(_, other)| (other - cosine).abs() < 1e-4));
        }
        wanted += best.hits.len() as u32;
    }
    f64::from(found) / f64::from(wanted)
}

#[test]
fn recall_on_clustered_vectors() {
    let truth = Truth::new();
    truth.insert_vectors((0..ROWS).map(clustered).collect());
    for forests in [1, 3] {
        let home = tempfile::tempdir().unwrap();
        let mut options = IndexOptions::new(home.path(), IndexIdentity { dims: DIMS, ..identity() });
        // As if there were too many to look at.
        options.exact_below = 0;
        options.forest_items = options.forest_items.min(ROWS / forests + 1);
        let index = Index::open(options, truth.clone()).unwrap();
        let normal = recall(&index, Effort::Normal);
        assert!(normal >= 0.95, "recall {normal} with {forests} forests");
        let more = recall(&index, Effort::Times(NonZeroUsize::new(4).unwrap()));
        assert!(more >= normal, "recall {more} with more effort, {normal} with less");
    }
}
