use super::*;
use crate::tmd::taxonomy::{DOMAINS, MODIFIERS, TASKS};
use proptest::prelude::*;

/// A whole artefact with three tokens: "law" votes for Law, Fact Retrieval and Legal, "s" is an ending.
fn small() -> Vec<u8> {
    let mut votes = [[0_u8; LABELS]; 3];
    (votes[0][11], votes[0][16], votes[0][16 + 32 + 6]) = (100, 50, 25);
    (votes[1][0], votes[1][17]) = (10, 10);
    let mut bytes = b"LNSPTMD\0\x02\0\0\0\x04\0\0\0test".to_vec();
    for labels in [16_u16, 32, 64] {
        bytes.extend(labels.to_le_bytes());
    }
    for unit in [0.05_f32; 3] {
        bytes.extend(unit.to_le_bytes());
    }
    bytes.extend(b"\x03\0\0\0\0\x03law\x01\x02ni\x03\x01s");
    bytes.extend(votes.as_flattened());
    // English without beginnings of words, one telling word, no priors, and confidences as the votes claim them.
    bytes.extend(b"\x01\x07english\0\0\0\0\x01\0\0\0\x03the\x01\0\0\0");
    bytes.extend([0; 4 * (6 * 32 + 6 * 64 + 16 * 64)]);
    for point in (0..29).flat_map(|_| 0..=10_u16) {
        bytes.extend((point * 6_553).max(1).to_le_bytes());
    }
    sealed(bytes)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The small artefact with other bytes at a place, and a checksum that hides it.
fn forged(place: usize, patch: &[u8]) -> Result<LocalClassifier, ArtefactError> {
    let mut bytes = small();
    bytes.truncate(bytes.len() - 4);
    bytes[place..place + patch.len()].copy_from_slice(patch);
    LocalClassifier::from_bytes(&sealed(bytes))
}

fn whole() -> LocalClassifier {
    LocalClassifier::embedded().unwrap()
}

#[test]
fn votes_decide_each_axis() {
    let classifier = LocalClassifier::from_bytes(&small()).unwrap();
    assert_eq!(classifier.version(), "test");
    let laws = classifier.classify("Laws!");
    assert_eq!(laws.tmd, Tmd::new(11, 0, 6).unwrap());
    assert_eq!(laws, classifier.classify("law"));
    assert!(laws.confidence.domain > laws.confidence.task, "more votes, more confidence");
    assert_eq!(classifier.classify("lawni").tmd, Tmd::new(11, 0, 6).unwrap());
}

#[test]
fn a_text_of_unknown_words_is_answered_with_the_least_confidence() {
    for text in ["", " ", "\0", "🌱🌱", "光合作用", "Фотосинтез", "...!?", &"#".repeat(65_536)]
    {
        let nothing = whole().classify(text);
        assert_eq!(nothing.tmd, Tmd::new(0, 0, 27).unwrap());
        let expected = AxisConfidence { domain: 1.0 / 16.0, task: 1.0 / 32.0, modifier: 1.0 / 64.0 };
        assert_eq!(nothing.confidence, expected, "{text:.20}");
    }
}

#[test]
fn everyday_facts_get_plausible_domains() {
    for (text, domain) in [
        ("Sorting algorithms rearrange the elements of an array.", "Software"),
        ("Tides are caused by the gravity of the moon.", "Science"),
        ("The surgeon removed the patient's inflamed appendix.", "Medicine"),
        ("The senate passed the bill after a close vote.", "Politics"),
    ] {
        let classification = whole().classify(text);
        assert_eq!(DOMAINS[usize::from(classification.tmd.domain())], domain, "{text}");
        assert!(classification.confidence.domain > 0.5, "{text}: {:?}", classification.confidence);
    }
}

#[test]
fn a_long_text_costs_no_more_than_its_beginning() {
    let start = "The judge heard the case. ".repeat(tokens::MAX_WORDS / 5 + 1);
    let long = format!("{start}{}", "Whales are mammals. ".repeat(3_000));
    assert!(long.len() > 60_000);
    assert_eq!(whole().classify(&long), whole().classify(&start));
}

#[test]
fn the_prototypes_are_in_the_order_of_the_codes() {
    let keys: Vec<&str> = include_str!("prototypes.toml")
        .lines()
        .filter_map(|line| Some(line.strip_prefix('"')?.split_once('"')?.0))
        .collect();
    // The domains stand there twice: their core, then their breadth.
    assert_eq!(keys, [&DOMAINS[..], &DOMAINS[..], &TASKS[..], &MODIFIERS[..]].concat());
}

#[test]
fn an_artefact_cut_or_changed_anywhere_is_refused() {
    let bytes = small();
    for length in 0..bytes.len() {
        assert!(LocalClassifier::from_bytes(&bytes[..length]).is_err(), "cut to {length}");
    }
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 0x40;
        assert!(LocalClassifier::from_bytes(&changed).is_err(), "byte {place}");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert!(LocalClassifier::from_bytes(&longer).is_err());
}

#[test]
fn the_error_names_the_section() {
    let cases = [
        (0, &b"GGUF"[..], "start with"),
        (8, b"\x03", "format: expected 2, received 3"),
        (12, b"\xff\xff\xff\xff", "bytes of version"),
        (16, b"\xff", "UTF-8 in version"),
        (20, b"\x11", "expected [16, 32, 64] of each axis, received [17, 32, 64]"),
        (26, b"\0\0\xc0\x7f", "positive number in units, received NaN"),
        (26, b"\0\0\0\x80", "positive number in units, received -0"),
        (38, b"\xff\xff\xff\xff", "received \"\" with flags 0"),
        (38, b"\x02", "expected 1 to 24 of them in languages, received 0"),
        (42, b"\x04", "flags 4"),
        (43, b"\xff", "distinct lower-case ASCII words in tokens"),
        (43, b"\0", "received \"\""),
        (44, b"LAW", "received \"LAW\""),
    ];
    for (place, patch, expected) in cases {
        let error = forged(place, patch).unwrap_err().to_string();
        assert!(error.contains(expected), "byte {place}: {error}");
    }
    // The checksum is over all bytes, so only it can tell about a vote.
    let mut bytes = small();
    bytes[60] ^= 1;
    assert!(matches!(LocalClassifier::from_bytes(&bytes), Err(ArtefactError::Checksum { .. })));
}

#[test]
fn a_token_may_stand_only_once() {
    // "ni" becomes a start, "s" an ending of the name "ni" would be a length error; so the first two collide.
    let mut bytes = small();
    bytes.truncate(bytes.len() - 4);
    bytes.splice(42..51, *b"\0\x02ni\0\x02ni\x03");
    let error = LocalClassifier::from_bytes(&sealed(bytes)).unwrap_err();
    assert!(error.to_string().contains("received \"ni\" with flags 0"), "{error}");
}

proptest! {
    #[test]
    fn any_text_has_an_answer(text in any::<String>()) {
        let classifier = LocalClassifier::from_bytes(&small()).unwrap();
        let AxisConfidence { domain, task, modifier } = classifier.classify(&text).confidence;
        for confidence in [domain, task, modifier] {
            prop_assert!(confidence > 0.0 && confidence <= 1.0);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), seal in any::<bool>()) {
        let mut bytes = [&small()[..12], &bytes].concat();
        if seal {
            bytes = sealed(bytes);
        }
        prop_assert!(LocalClassifier::from_bytes(&bytes).is_err());
    }
}
