//! The local classifier on a sample: correct domains, and no constant axis.

use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::tmd::Axis;
use serde_json::Value;
use std::collections::BTreeSet;

fn sample() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(crate::root().join("tests/data/sample.ndjson")).unwrap();
    let pair = |line: &str| {
        let chunk: Value = serde_json::from_str(line).unwrap();
        let field = |value: &Value| value.as_str().unwrap().to_owned();
        (field(&chunk["text"]), field(&chunk["metadata"]["domain"]))
    };
    text.lines().map(pair).collect()
}

#[test]
fn nine_of_ten_domains_of_the_sample_are_right() {
    let classifier = LocalClassifier::embedded().unwrap();
    let sample = sample();
    assert!(sample.len() >= 160);
    for domain in Axis::Domain.names() {
        assert!(sample.iter().filter(|(_, label)| label == domain).count() >= 10, "{domain}");
    }
    let right = sample
        .iter()
        .filter(|(text, label)| classifier.classify(text).tmd.name(Axis::Domain) == label)
        .count();
    assert!(right * 10 >= sample.len() * 9, "{right} of {}", sample.len());
}

#[test]
fn all_three_axes_vary_each_with_its_own_confidence() {
    let classifier = LocalClassifier::embedded().unwrap();
    let found: Vec<_> = sample().iter().map(|(text, _)| classifier.classify(text)).collect();
    for axis in Axis::ALL {
        let codes: BTreeSet<u8> = found.iter().map(|one| one.tmd.code(axis)).collect();
        let most =
            codes.iter().map(|code| found.iter().filter(|one| one.tmd.code(axis) == *code).count()).max();
        assert!(codes.len() >= 8, "{axis}: {codes:?}");
        assert!(most.unwrap() < found.len() / 2, "{axis}: one code for half of the sample");
    }
    for one in &found {
        let sure = one.confidence;
        assert!([sure.domain, sure.task, sure.modifier].iter().all(|c| *c > 0.0 && *c <= 1.0), "{sure:?}");
    }
    let distinct = |of: fn(&lnsp_ingest::tmd::AxisConfidence) -> f32| {
        found.iter().map(|one| of(&one.confidence).to_bits()).collect::<BTreeSet<_>>().len()
    };
    assert!(distinct(|c| c.domain) > 100 && distinct(|c| c.task) > 100 && distinct(|c| c.modifier) > 100);
}
