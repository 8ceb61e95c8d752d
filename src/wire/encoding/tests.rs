//! Whole, concatenated, truncated and damaged bodies, and decompression bombs.

use super::*;
use crate::wire::LineDecoder;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compress(encoding: ContentEncoding, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        ContentEncoding::Identity => bytes.to_vec(),
        ContentEncoding::Gzip => gzip(bytes),
        ContentEncoding::Zstd => zstd(bytes),
    }
}

/// Inflates the pieces of a body as the server does, `room` bytes at a time.
fn inflate(encoding: ContentEncoding, pieces: &[&[u8]], room: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflate = Inflate::new(encoding)?;
    let (mut whole, mut output) = (Vec::new(), vec![0; room]);
    for mut piece in pieces.iter().copied() {
        loop {
            let written = inflate.step(&mut piece, &mut output)?;
            whole.extend_from_slice(&output[..written]);
            if piece.is_empty() && written < room {
                break;
            }
        }
    }
    inflate.finish().map(|()| whole)
}

fn is_corrupt(result: &Result<Vec<u8>, InflateError>) -> bool {
    matches!(result, Err(InflateError::Corrupt { .. } | InflateError::Truncated { .. }))
}

const BOTH: [ContentEncoding; 2] = [ContentEncoding::Gzip, ContentEncoding::Zstd];

#[test]
fn one_known_encoding_is_understood_and_nothing_else() {
    use ContentEncoding::{Gzip, Identity, Zstd};
    for (header, encoding) in [
        ("", Some(Identity)),
        ("identity", Some(Identity)),
        ("GZIP", Some(Gzip)),
        ("x-gzip", Some(Gzip)),
        ("identity, zstd", Some(Zstd)),
        ("br", None),
        ("deflate", None),
        ("gzip, gzip", None),
        ("zstd,gzip", None),
    ] {
        assert_eq!(ContentEncoding::from_header(header), encoding, "{header}");
    }
}

#[test]
fn members_and_frames_one_after_the_other_are_one_body() {
    for encoding in BOTH {
        let body = ["one\n", "", "two\n", ""].map(|part| compress(encoding, part.as_bytes())).concat();
        assert_eq!(inflate(encoding, &[&body], 64).unwrap(), b"one\ntwo\n");
    }
    let skipped = [&zstd(b"a")[..], b"\x5a\x2a\x4d\x18\x02\0\0\0xx", &zstd(b"b")].concat();
    assert_eq!(inflate(ContentEncoding::Zstd, &[&skipped], 64).unwrap(), b"ab");
}

#[test]
fn zeros_after_a_gzip_member_are_padding() {
    let member = |text: &str| compress(ContentEncoding::Gzip, text.as_bytes());
    for padding in [1, 7, 512, 100_000] {
        let zeros = vec![0; padding];
        let body = [&member("one\n")[..], &zeros, &member("two\n"), &zeros].concat();
        for room in [1, 3, 64] {
            assert_eq!(inflate(ContentEncoding::Gzip, &[&body], room).unwrap(), b"one\ntwo\n");
            let pieces: Vec<&[u8]> = body.chunks(5).collect();
            assert_eq!(inflate(ContentEncoding::Gzip, &pieces, room).unwrap(), b"one\ntwo\n");
        }
        let rubbish = [&member("one\n")[..], &zeros, b"x"].concat();
        assert!(is_corrupt(&inflate(ContentEncoding::Gzip, &[&rubbish], 64)));
    }
    assert!(is_corrupt(&inflate(ContentEncoding::Gzip, &[&[0; 512]], 64)), "padding of nothing");
}

/// What is inflated before the damage.
fn before_damage(encoding: ContentEncoding, body: &[u8], room: usize) -> (Vec<u8>, InflateError) {
    let mut inflate = Inflate::new(encoding).unwrap();
    let (mut whole, mut output, mut input) = (Vec::new(), vec![0; room], body);
    loop {
        match inflate.step(&mut input, &mut output) {
            Ok(0) => return (whole, inflate.finish().unwrap_err()),
            Ok(written) => whole.extend_from_slice(&output[..written]),
            Err(damage) => return (whole, damage),
        }
    }
}

#[test]
fn what_comes_before_the_damage_is_given() {
    let lines: String =
        (0..20_000).map(|n| format!("{{\"text\":\"Fact {n} of {}.\"}}\n", n * n % 7919)).collect();
    for encoding in BOTH {
        let whole = compress(encoding, lines.as_bytes());
        for room in [100, 64 << 10, 4 << 20] {
            let (given, _) = before_damage(encoding, &[&whole[..], b"no member and no frame"].concat(), room);
            assert!(given == lines.as_bytes(), "{encoding:?}: {} of {} bytes", given.len(), lines.len());
            let mut damaged = whole.clone();
            let checksum = damaged.len() - 6;
            damaged[checksum] ^= 0x55;
            let (given, _) = before_damage(encoding, &damaged, room);
            assert!(lines.as_bytes().starts_with(&given));
            assert!(
                given.len() + (128 << 10) >= lines.len(),
                "{encoding:?}: {} bytes of {}",
                given.len(),
                lines.len()
            );
        }
    }
}

#[test]
fn a_body_that_is_cut_anywhere_is_never_a_whole_one() {
    for encoding in BOTH {
        let body = [compress(encoding, b"one\n"), compress(encoding, b"two\n")].concat();
        let boundary = compress(encoding, b"one\n").len();
        for end in (0..body.len()).filter(|end| *end != boundary) {
            let result = inflate(encoding, &[&body[..end]], 64);
            assert!(is_corrupt(&result), "{encoding:?} cut at {end}: {result:?}");
        }
    }
}

#[test]
fn damage_is_told() {
    let text = "some text that is long enough to be damaged ".repeat(50);
    for encoding in BOTH {
        let mut body = compress(encoding, text.as_bytes());
        let last = body.len() - 6;
        body[last] ^= 0x55;
        assert!(is_corrupt(&inflate(encoding, &[&body], 64)));
        let rubbish = [&compress(encoding, b"good")[..], b"and then something else"].concat();
        assert!(is_corrupt(&inflate(encoding, &[&rubbish], 64)));
        assert!(is_corrupt(&inflate(encoding, &[text.as_bytes()], 64)));
    }
    // A format from before zstd 1.0, a frame that wants 512 MiB of window.
    assert!(is_corrupt(&inflate(ContentEncoding::Zstd, &[b"\x27\xb5\x2f\xfd\0\0\0\0\0\0\0\0"], 64)));
    let wide = inflate(ContentEncoding::Zstd, &[b"\x28\xb5\x2f\xfd\x00\x98\x01\x00\x00"], 64);
    assert!(wide.unwrap_err().to_string().contains("too much memory"));
}

#[test]
fn a_bomb_is_cut_soon_after_the_free_bytes_and_an_honest_body_of_any_length_is_not() {
    let zeros = vec![0; 64 << 20];
    for encoding in BOTH {
        let bomb = compress(encoding, &zeros);
        let mut inflate = Inflate::new(encoding).unwrap();
        let (mut input, mut output, mut total) = (&bomb[..], vec![0; 64 << 10], 0_u64);
        let cut = loop {
            match inflate.step(&mut input, &mut output) {
                Ok(written) => total += written as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(cut, InflateError::Ratio);
        assert!((RATIO_FREE_BYTES..RATIO_FREE_BYTES + (1 << 20)).contains(&total), "{encoding:?}: {total}");
    }
    let honest: String = (0..400_000).map(|n| format!("{{\"text\":\"Fact {n}.\"}}\n")).collect();
    for encoding in BOTH {
        let body = compress(encoding, honest.as_bytes());
        assert!(inflate(encoding, &[&body], 64 << 10).unwrap() == honest.as_bytes());
    }
}

proptest! {
    #[test]
    fn compressed_lines_are_the_lines_wherever_they_are_cut(
        text in "[a-c \r\n]{0,400}",
        cuts in proptest::collection::vec(0usize..400, 0..6),
        room in 1usize..100,
    ) {
        let lines = |bytes: &[u8]| {
            let mut lines = LineDecoder::default();
            lines.feed(bytes);
            let mut found: Vec<_> = std::iter::from_fn(|| lines.next_line()).collect();
            found.extend(lines.last_line());
            found
        };
        for encoding in [ContentEncoding::Identity, ContentEncoding::Gzip, ContentEncoding::Zstd] {
            let body = compress(encoding, text.as_bytes());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            let inflated = inflate(encoding, &pieces, room).unwrap();
            prop_assert_eq!(lines(&inflated), lines(text.as_bytes()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_write_past_its_room(bytes in any::<Vec<u8>>(), head in any::<bool>()) {
        for (encoding, magic) in [(ContentEncoding::Gzip, &b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..]), (ContentEncoding::Zstd, b"\x28\xb5\x2f\xfd")] {
            let body = [if head { magic } else { b"" }, &bytes].concat();
            drop(inflate(encoding, &[&body], 7));
        }
    }
}
