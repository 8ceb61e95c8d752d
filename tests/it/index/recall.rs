//! With the defaults, a search finds what looking at everything finds; with a filter too, however few rows match.

use super::truth::{Truth, identity, nearest, unit, vector};
use chrono::DateTime;
use lnsp_ingest::filter::{FieldValues, Filter, FilterFields, Term, TermField};
use lnsp_ingest::index::{Effort, Index, IndexIdentity, IndexOptions, NearestQuery, SearchMode};
use std::num::NonZeroUsize;
use std::sync::Arc;

const DIMS: usize = 64;
const ROWS: u32 = 6_000;
const CLUSTERS: u32 = 40;

/// Texts of one topic: half of what a vector says is its cluster's, so neighbours have a cosine of about 0.5. All of them
/// share a direction, as the vectors of some models do.
fn clustered(n: u32) -> Arc<[f32]> {
    let (own, center, common) = (vector(n, 1, DIMS), vector(n % CLUSTERS, 2, DIMS), vector(0, 3, DIMS));
    let parts = own.iter().zip(center.iter()).zip(common.iter());
    unit(&parts.map(|((own, center), common)| own + center + common).collect::<Vec<_>>())
}

fn recall(index: &Index, effort: Effort, mode: SearchMode) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for n in 0..50 {
        let query = clustered(1_000_000 + 37 * n);
        let best = nearest(index, &query, 10, Effort::Exact);
        let walked = nearest(index, &query, 10, effort);
        assert_eq!((best.mode, walked.mode), (SearchMode::Exact, mode));
        for hit in &walked.hits {
            // Both searches give scores on one scale.
            let exact = best.hits.iter().find(|other| other.item == hit.item);
            found += u32::from(exact.is_some_and(|other| (other.score - hit.score).abs() < 1e-4));
        }
        wanted += best.hits.len() as u32;
    }
    f64::from(found) / f64::from(wanted)
}

fn options(home: &std::path::Path) -> IndexOptions {
    IndexOptions::new(home, IndexIdentity { dims: DIMS, ..identity() })
}

#[test]
fn recall_of_vectors_in_fewer_bits() {
    let truth = Truth::new();
    truth.insert_vectors((0..ROWS).map(clustered).collect());
    let home = tempfile::tempdir().unwrap();
    let index = Index::open(options(home.path()), truth.clone()).unwrap();
    let normal = recall(&index, Effort::Normal, SearchMode::Quantized);
    assert!(normal >= 0.99, "recall {normal}");
}

#[test]
fn recall_of_trees() {
    let truth = Truth::new();
    truth.insert_vectors((0..ROWS).map(clustered).collect());
    for forests in [1, 3] {
        let home = tempfile::tempdir().unwrap();
        let mut options = options(home.path());
        options.trees_from = 1;
        options.forest_items = options.forest_items.min(ROWS / forests + 1);
        let index = Index::open(options, truth.clone()).unwrap();
        let normal = recall(&index, Effort::Normal, SearchMode::Trees);
        assert!(normal >= 0.95, "recall {normal} with {forests} forests");
        let more = recall(&index, Effort::Times(NonZeroUsize::new(4).unwrap()), SearchMode::Trees);
        assert!(more >= normal, "recall {more} with more effort, {normal} with less");
    }
}

/// A row in so many has each of these values of the metadata.
const SHARES: [u32; 4] = [2, 20, 200, 3_000];

fn fields(item: u32) -> FilterFields {
    let shares = SHARES.iter().filter(|share| item.is_multiple_of(**share));
    let metadata = shares.map(|share| (share.to_string(), true.into())).collect();
    FilterFields::new(FieldValues {
        tmd: None,
        dataset: "d",
        document: None,
        source_document: None,
        metadata: Some(&metadata),
        created_at: DateTime::UNIX_EPOCH,
        text: "",
        content_hash: [0; 32],
    })
}

#[test]
fn a_filter_finds_as_many_as_match_and_the_nearest_of_them() {
    let truth = Truth::new();
    let rows = (0..ROWS).map(|n| (clustered(n), fields(n + 1))).collect();
    truth.insert_rows(rows);
    let home = tempfile::tempdir().unwrap();
    let index = Index::open(options(home.path()), truth.clone()).unwrap();
    for share in SHARES {
        let filter = Filter::Has(vec![Term::new(TermField::Metadata(&share.to_string()), true)]);
        let (mut found, mut wanted) = (0, 0);
        for n in 0..30 {
            let vector = clustered(2_000_000 + 11 * n);
            let ask = |effort| {
                index.search(&NearestQuery { vector: &vector, filter: &filter, k: 10, effort }).unwrap()
            };
            let (best, normal) = (ask(Effort::Exact), ask(Effort::Normal));
            assert_eq!(normal.hits.len(), 10.min((ROWS / share) as usize));
            assert_eq!((normal.matching, best.matching), ((ROWS / share) as usize, (ROWS / share) as usize));
            assert!(normal.hits.iter().all(|hit| hit.item.is_multiple_of(share)));
            found += normal.hits.iter().filter(|hit| best.hits.contains(hit)).count();
            wanted += best.hits.len();
        }
        assert!(found as f64 >= 0.99 * wanted as f64, "one in {share}: {found} of {wanted}");
    }
}
