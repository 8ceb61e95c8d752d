//! The local classifier: correct domains on a sample, no constant axis, and, on 300 texts of six kinds, confidences that
//! keep what they promise.

use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::tmd::Axis;
use serde::Deserialize;
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

/// One of the 300 texts, with what a careful reader accepts.
#[derive(Debug, Deserialize)]
struct Labelled {
    kind: String,
    split: String,
    text: String,
    domain: String,
    task: Vec<String>,
    modifier: Vec<String>,
}

fn labelled() -> Vec<Labelled> {
    let text = std::fs::read_to_string(crate::root().join("tests/data/labels.ndjson")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const KINDS: [&str; 6] = ["encyclopedic", "ticket", "mail", "code", "german", "spanish"];

/// What the classifier said of one axis of a text.
struct Claim {
    kind: String,
    confidence: f64,
    right: bool,
}

/// The claims about an axis over one half of the texts.
fn claims(axis: Axis, split: &str) -> Vec<Claim> {
    let classifier = LocalClassifier::embedded().unwrap();
    let half = labelled().into_iter().filter(|one| one.split == split);
    half.map(|one| {
        let found = classifier.classify(&one.text);
        let name = found.tmd.name(axis);
        let (confidence, right) = match axis {
            Axis::Domain => (found.confidence.domain, one.domain == name),
            Axis::Task => (found.confidence.task, one.task.iter().any(|task| task == name)),
            Axis::Modifier => (found.confidence.modifier, one.modifier.iter().any(|label| label == name)),
        };
        Claim { kind: one.kind, confidence: f64::from(confidence), right }
    })
    .collect()
}

/// How many, the share that was right, and the mean confidence.
fn summary<'a>(claims: impl Iterator<Item = &'a Claim>) -> (usize, f64, f64) {
    let (mut count, mut right, mut sum) = (0, 0, 0.0);
    for claim in claims {
        count += 1;
        right += usize::from(claim.right);
        sum += claim.confidence;
    }
    let share = |of: f64| if count == 0 { 1.0 } else { of / count as f64 };
    (count, share(right as f64), share(sum))
}

/// The expected calibration error over ten bins.
fn calibration_error(claims: &[Claim]) -> f64 {
    let gap = |bin: usize| {
        let inside = claims.iter().filter(|claim| ((claim.confidence * 10.0) as usize).min(9) == bin);
        let (count, right, confidence) = summary(inside);
        count as f64 * (right - confidence).abs()
    };
    (0..10).map(gap).sum::<f64>() / claims.len() as f64
}

/// The reliability table, as the documents have it.
fn table(axis: Axis, split: &str, claims: &[Claim]) -> String {
    let (count, right, confidence) = summary(claims.iter());
    let error = calibration_error(claims);
    let mut table = format!(
        "{axis}, {split}: {count} texts, right {right:.2}, confidence {confidence:.2}, calibration error {error:.3}\n"
    );
    for kind in KINDS {
        let (_, right, confidence) = summary(claims.iter().filter(|claim| claim.kind == kind));
        let high = claims.iter().filter(|claim| claim.kind == kind && claim.confidence >= 0.8);
        let (sure, kept, _) = summary(high);
        table += &format!(
            "  {kind:12} right {right:.2}, confidence {confidence:.2}, from 0.8 on: {sure} texts, right {kept:.2}\n"
        );
    }
    for bin in 0..10 {
        let inside = claims.iter().filter(|claim| ((claim.confidence * 10.0) as usize).min(9) == bin);
        let (count, right, confidence) = summary(inside);
        if count > 0 {
            table +=
                &format!("  0.{bin}..    {count:3} texts, confidence {confidence:.2}, right {right:.2}\n");
        }
    }
    table
}

#[test]
fn three_hundred_texts_are_of_six_kinds_and_all_domains() {
    let all = labelled();
    for kind in KINDS {
        for split in ["dev", "test"] {
            assert_eq!(
                all.iter().filter(|one| one.kind == kind && one.split == split).count(),
                25,
                "{kind} {split}"
            );
        }
    }
    let domains: BTreeSet<&str> = all.iter().map(|one| one.domain.as_str()).collect();
    assert_eq!(domains, Axis::Domain.names().iter().copied().collect());
    for one in &all {
        for (axis, names) in [(Axis::Task, &one.task), (Axis::Modifier, &one.modifier)] {
            assert!((1..=6).contains(&names.len()), "{one:?}");
            assert!(names.iter().all(|name| axis.names().contains(&name.as_str())), "{one:?}");
        }
    }
    let texts: BTreeSet<&str> = all.iter().map(|one| one.text.as_str()).collect();
    assert_eq!(texts.len(), 300);
}

#[test]
fn confidences_keep_what_they_promise() {
    for axis in Axis::ALL {
        println!("{}", table(axis, "dev", &claims(axis, "dev")));
        let test = claims(axis, "test");
        println!("{}", table(axis, "test", &test));
        assert!(calibration_error(&test) <= 0.08, "{axis}: {}", calibration_error(&test));
    }
    let domains: Vec<Claim> =
        ["dev", "test"].into_iter().flat_map(|split| claims(Axis::Domain, split)).collect();
    assert!(summary(domains.iter()).1 >= 0.8, "domains");
    for kind in KINDS {
        let (_, right, _) = summary(domains.iter().filter(|claim| claim.kind == kind));
        assert!(right >= 0.7, "{kind}: {right}");
        let (_, kept, _) =
            summary(domains.iter().filter(|claim| claim.kind == kind && claim.confidence >= 0.8));
        assert!(kept >= 0.9, "{kind}: {kept} of those with a confidence of 0.8 or more");
    }
}

/// What mail programs put below a text, about subjects of all kinds.
const BELOW: &str = "

Best regards,
A. Person
Head of Cardiology | Museum of Economics
+49 40 5550 133 | www.hospital.example | a.person@bank.example

This e-mail is confidential. If you are not the intended recipient, please notify the sender and delete it.

On Tue, 4 Feb 2025 at 09:12, B. Person <b.person@law.example> wrote:
> The court heard the plaintiff and the judge ruled against the landlord. The surgeon removed the tumour, the
> patient takes antibiotics for the infection. The orchestra played the symphony, the painter showed his portraits.
> The bank raised interest rates, inflation fell, shareholders expect a dividend. The senate passed the bill.
> The volcano erupted and the glaciers of the planet melt. Pupils hand in their homework to the teacher.
";

#[test]
fn quoted_mail_signatures_and_addresses_do_not_change_the_domain() {
    let classifier = LocalClassifier::embedded().unwrap();
    let mut tried = 0;
    for one in
        labelled().into_iter().filter(|one| ["ticket", "german", "spanish"].contains(&one.kind.as_str()))
    {
        // Of those that end in a signature of their own, that one decides where the text ends.
        if one.text.contains('\n') {
            continue;
        }
        let (bare, quoting) =
            (classifier.classify(&one.text), classifier.classify(&format!("{}{BELOW}", one.text)));
        assert_eq!(bare.tmd.domain(), quoting.tmd.domain(), "{}", one.text);
        assert_eq!(bare.confidence.domain, quoting.confidence.domain, "{}", one.text);
        tried += 1;
    }
    assert!(tried >= 100, "{tried}");
}

#[test]
fn a_language_without_a_list_gets_a_low_confidence() {
    let classifier = LocalClassifier::embedded().unwrap();
    for text in [
        "Le tribunal a jugé que le contrat entre le propriétaire et le locataire était nul, parce que la loi exige un écrit.",
        "Il tribunale ha deciso che il contratto tra il proprietario e l'inquilino è nullo, perché la legge lo prevede.",
        "O tribunal decidiu que o contrato entre o proprietário e o inquilino é nulo, porque a lei não o permite.",
        "De rechtbank oordeelde dat het contract tussen de verhuurder en de huurder nietig is, omdat de wet dat zo wil.",
        "Domstolen fann att avtalet mellan hyresvärden och hyresgästen var ogiltigt, eftersom lagen inte tillåter det.",
        "Sąd uznał, że umowa między właścicielem a najemcą jest nieważna, ponieważ nie jest to zgodne z ustawą.",
        "法院裁定房东与租客之间的合同无效，因为法律要求书面形式。",
        "Суд признал договор между арендодателем и арендатором недействительным.",
        "Mahkeme, ev sahibi ile kiracı arasındaki sözleşmenin geçersiz olduğuna karar verdi.",
        "裁判所は、家主と借主の契約を無効とした。API と JSON。",
    ] {
        let found = classifier.classify(text);
        let highest = found.confidence.domain.max(found.confidence.task).max(found.confidence.modifier);
        assert!(highest <= 0.25, "{text}: {found:?}");
    }
}
