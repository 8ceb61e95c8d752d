#!/usr/bin/env python3
"""Builds the artefact of the local TMD classifier from a word-embedding table and the label prototypes.

A label is known by the words in src/classifier/prototypes.toml. How strongly a token speaks for a label is the
mean similarity exp(beta * cosine) to that label's words, relative to the other labels: a kernel density, so that
a token next to one prototype word counts although it is far from the label's mean (with the same 70 words a domain,
78 % of 350 sentences were right by the nearest mean, 86 % this way). That depends on the token alone, so it is
computed here, once, for each token and all labels; at run time a text is a sum of table rows.

The space is the model's word-embedding table, mean removed, in principal components that are divided by the root
of their singular values: the first components hold frequency and spelling rather than meaning, and would drown it.
Tokens are weighted by a/(a + p), p being Zipf's estimate from the rank: WordPiece ids are ordered by frequency.

German and Spanish have no table: src/classifier/words has lists of beginnings of words, and a word votes for the
domains whose lists it is in. The same folder has the words that tell languages apart and those that show what kind
of text it is, what each kind is good for, and the calibration of the confidences.

The file, little-endian, read by src/classifier/artefact.rs:

    8 bytes   magic "LNSPTMD\\0"
    u32       format version, 2
    u32, n    length of the version string; the string, UTF-8
    3 x u16   labels of the axes domain, task, modifier; their sum is L
    3 x f32   per axis: logit of one vote, to be divided by sqrt(known words + 4)
    u32       rows R
    R x       token: u8 flags (1 = continues a word, 2 = inflection, skipped), u8 length, ASCII bytes
    R x L     votes, i8, axes one after the other
    u8        languages; the first is English, which has the table
    each      u8 length, name; u32 beginnings of words; of each: u8 length, ASCII bytes, u16 set of domains
    u32       telling words; of each: u8 length, ASCII bytes, u32 set: bit n for language n, from bit 24 the markers
              person, problem, request, greeting
    K x 32    what each of the K kinds of text adds to the tasks, i32, in votes
    K x 64    and to the modifiers
    16 x 64   what each domain adds to the modifiers
    rows x 11 calibration, u16 of 65535 by the votes' claim in tenths: of the domain by reach (english, listed,
              other), of the task by reach (english, listed) and kind, of the modifier likewise, then of both for
              other languages
    u32       CRC-32 of all bytes before it
"""

import argparse
import hashlib
import json
import re
import struct
import sys
import tomllib
import zlib
from pathlib import Path

import numpy as np

FORMAT = 2
LABELS = {"domain": 16, "task": 32, "modifier": 64}

# Dimensions kept. Fewer lose rare fields of knowledge, more add noise.
DIMENSIONS = 256

# beta: width of the kernel. a: frequency weight (function words carry the form of a sentence, so tasks and
# modifiers keep more of them). neutral: how much of the domain subspace is taken out, so that a task is not merely
# another name for a topic. zipf: exponent of the word frequencies over which an axis is centred; a random text
# then favours no label, and below 1 the labels of common words become the default for plain statements.
# sharpness: fitted by likelihood on labelled sentences for the domain, chosen for the axes without ground truth.
AXES = {
    "domain": {"beta": 7.0, "a": 3e-4, "neutral": 0.0, "zipf": None, "sharpness": 9.0},
    "task": {"beta": 8.0, "a": 1e-2, "neutral": 0.6, "zipf": 0.9, "sharpness": 4.0},
    "modifier": {"beta": 6.0, "a": 1e-2, "neutral": 0.3, "zipf": 0.9, "sharpness": 4.0},
}

# How much votes count against what the kind of a text and its subject say about an axis.
SHARES = {"domain": 1.0, "task": 0.45, "modifier": 0.4}

# The kinds of texts, the markers and the reaches of the calibration, in the order of their numbers in src/classifier.
KINDS = ("reference", "code", "report", "question", "statement", "letter")
MARKERS = ("person", "problem", "request", "greeting")
REACHES = ("english", "listed", "other")
LISTED = ("german", "spanish")

# Languages have the bits below it.
FIRST_MARKER = 24

# What a word of [breadth] counts against one of [domain]. As much, and the many blur the few that define a field.
BREADTH = 0.25

# Endings that leave the stem's meaning: "neutron" + "##s" is a neutron.
INFLECTIONS = {"##s", "##es", "##ed", "##ing", "##ly", "##er", "##ers", "##r", "##d", "##rs"}
CONTINUES, SKIPPED = 1, 2

# A word known whole counts twice, each piece of a broken one once (src/classifier/tokens.rs).
WHOLE = 2

# The first ids are control tokens and single characters; the most frequent whole word ("the") follows them.
FIRST_WORD = 1996


def read_tensor(path, suffix):
    """One f32 or f16 tensor of a safetensors file: a JSON header, then raw little-endian data."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        names = [name for name in header if name.endswith(suffix)]
        if len(names) != 1:
            sys.exit(f"{path}: expected one tensor named *{suffix}, found {len(names)}")
        entry = header[names[0]]
        kinds = {"F32": "<f4", "F16": "<f2"}
        if entry["dtype"] not in kinds:
            sys.exit(f"{path}: expected {names[0]} as F32 or F16, found {entry['dtype']}")
        start, end = entry["data_offsets"]
        file.seek(8 + length + start)
        return np.frombuffer(file.read(end - start), kinds[entry["dtype"]]).reshape(entry["shape"]).astype(np.float32)


def read_prototypes(path):
    prototypes = tomllib.loads(path.read_text(encoding="utf-8"))
    for axis, count in (LABELS | {"breadth": LABELS["domain"]}).items():
        labels = prototypes.get(axis, {})
        if len(labels) != count:
            sys.exit(f"{path}: expected {count} labels in [{axis}], found {len(labels)}")
        for label, words in labels.items():
            if not words.split() or not re.fullmatch(r"[a-z0-9\s]+", words):
                sys.exit(f"{path}: {axis} {label!r}: expected lower-case ASCII words, found {words[:40]!r}")
    return {axis: [words.split() for words in labels.values()] for axis, labels in prototypes.items()}


def words_of(text, path, what):
    """The words of a list, each once."""
    words = list(dict.fromkeys(text.split()))
    for word in words:
        if not re.fullmatch(r"[a-z0-9]{1,40}", word):
            sys.exit(f"{path}: {what}: expected lower-case ASCII words, found {word!r}")
    return words


def read_words(folder):
    """The lists of src/classifier/words as they are, for the version and for the sections."""
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))}


def table(rows, labels, path):
    """Numbers by the names of labels, as a row of the table."""
    row = np.zeros(len(labels))
    for label, number in rows.items():
        if label not in labels:
            sys.exit(f"{path}: {label!r} is no label")
        row[labels.index(label)] = number
    return row


def text(name):
    return struct.pack("<B", len(name)) + name.encode()


def language_sections(lists, domains):
    """Which words tell a language and its subjects, and which show what kind of text it is."""
    others = lists["others"]
    languages = ["english", *LISTED, *(name for name in others if name != "english")]
    if len(languages) > FIRST_MARKER:
        sys.exit(f"others.toml: expected at most {FIRST_MARKER} languages")
    sections, telling = [struct.pack("<B", len(languages))], {}
    for number, language in enumerate(languages):
        listed = lists.get(language, {})
        subjects = {}
        for domain, words in listed.get("domain", {}).items():
            for word in words_of(words, language, domain):
                subjects[word] = subjects.get(word, 0) | 1 << domains.index(domain)
        sections.append(text(language) + struct.pack("<I", len(subjects)))
        sections.extend(text(word) + struct.pack("<H", subjects[word]) for word in sorted(subjects))
        for word in words_of(listed.get("function") or others[language], language, "function"):
            telling[word] = telling.get(word, 0) | 1 << number
    for number, marker in enumerate(MARKERS):
        for word in words_of(lists["markers"][marker], "markers", marker):
            telling[word] = telling.get(word, 0) | 1 << FIRST_MARKER + number
    sections.append(struct.pack("<I", len(telling)))
    sections.extend(text(word) + struct.pack("<I", telling[word]) for word in sorted(telling))
    return b"".join(sections)


def prior_sections(lists, labels, units):
    """What the kind of a text and its domain add to the votes, and the calibration."""
    kinds = lists["kinds"]
    task = [table(kinds["task"][kind], labels["task"], "kinds.toml") / units[1] for kind in KINDS]
    modifier = [table(kinds["modifier"][kind], labels["modifier"], "kinds.toml") / units[2] for kind in KINDS]
    subject = [table(kinds["subject"][domain], labels["modifier"], "kinds.toml") / units[2] for domain in labels["domain"]]
    calibration = lists["calibration"]
    known, other = REACHES[:-1], calibration[REACHES[-1]]
    calibration = (
        [calibration["domain"][reach] for reach in REACHES]
        + [calibration[reach][axis][kind] for axis in ("task", "modifier") for reach in known for kind in KINDS]
        + [other["task"], other["modifier"]]
    )
    calibration = np.array(calibration)
    if calibration.shape[1:] != (11,) or (np.diff(calibration) < 0).any() or calibration.min() <= 0 or calibration.max() > 1:
        sys.exit("calibration.toml: expected eleven rising numbers up to 1 in each row")
    priors = [np.rint(rows).astype("<i4").tobytes() for rows in (task, modifier, subject)]
    return b"".join(priors) + np.rint(calibration * 65535).astype("<u2").tobytes()


def pieces(word, ids):
    """Greedy longest match, as src/classifier/tokens.rs does it; inflections are left out."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            token = ("##" if start else "") + word[start:end]
            if token in ids:
                break
        else:
            return []
        if token not in INFLECTIONS:
            found.append(ids[token])
        start = end
    return found


def unit(vectors):
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


def reduced(table):
    """Principal components over the whole words and pieces, half-whitened."""
    centred = table - table[FIRST_WORD:].mean(0)
    body = centred[FIRST_WORD:].astype(np.float64)
    values, vectors = np.linalg.eigh(body.T @ body)
    order = np.argsort(values)[::-1][:DIMENSIONS]
    return centred @ vectors[:, order] / values[order] ** 0.25


def votes_of(axis, rows, frequency, prototypes, vector):
    """How strongly each row speaks for each label of the axis, frequency weight included."""
    how = AXES[axis]
    space = unit(rows)
    if how["neutral"]:
        means = np.array([unit(np.array([vector(word) for word in words])).mean(0) for words in prototypes["domain"]])
        _, _, basis = np.linalg.svd(means - means.mean(0), full_matrices=False)
        basis = basis[: len(means) - 1]
        space = unit(space - how["neutral"] * (space @ basis.T) @ basis)
    votes = np.empty((len(rows), LABELS[axis]))
    for label, words in enumerate(prototypes[axis]):
        further = prototypes["breadth"][label] if axis == "domain" else []
        anchors = np.array([vector(word, space) for word in words + further])
        share = np.array([1.0] * len(words) + [BREADTH] * len(further))
        votes[:, label] = np.log(np.exp(how["beta"] * (space @ unit(anchors).T)) @ (share / share.sum()))
    votes -= votes.mean(1, keepdims=True)
    weight = how["a"] / (how["a"] + frequency)
    if how["zipf"]:
        share = np.where(np.isfinite(frequency), frequency, 0.0) ** how["zipf"] * weight
        votes -= share @ votes / share.sum()
    return votes * weight[:, None]


def main():
    parser = argparse.ArgumentParser(description="Builds the artefact of the local TMD classifier.")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.safetensors and vocab.txt")
    parser.add_argument("--out", type=Path, required=True, help="the artefact to write")
    options = parser.parse_args()

    source = Path(__file__).resolve().parent.parent / "src" / "classifier" / "prototypes.toml"
    prototypes = read_prototypes(source)
    canonical = {axis: list(tomllib.loads(source.read_text(encoding="utf-8"))[axis]) for axis in LABELS}
    lists = read_words(source.parent / "words")
    table = read_tensor(options.model / "model.safetensors", "word_embeddings.weight")
    vocabulary = (options.model / "vocab.txt").read_text(encoding="utf-8").split("\n")[: len(table)]

    # English only: control tokens, punctuation and other scripts have no row, and the tokeniser splits there.
    kept = [i for i, token in enumerate(vocabulary) if re.fullmatch(r"(##)?[a-z0-9]+", token)]
    tokens = [vocabulary[i] for i in kept]
    rank = np.maximum(np.array(kept) - FIRST_WORD + 1, 1)
    zipf = 1.0 / rank
    frequency = zipf / zipf.sum()
    # Single letters and digits rank before the words; they are common and say little.
    frequency[np.array(kept) < FIRST_WORD] = 1e-2
    ids = {token: row for row, token in enumerate(tokens)}
    rows = reduced(table)[kept]

    # A prototype word that WordPiece would break gets a row of its own, so that it counts as a whole when it comes.
    extra = {}
    for labels in prototypes.values():
        for words in labels:
            for word in words:
                found = pieces(word, ids)
                if len(found) > 1:
                    extra[word] = rows[found].mean(0)
    tokens += list(extra)
    ids |= {word: len(ids) + n for n, word in enumerate(extra)}
    rows = np.vstack([rows, *extra.values()])
    frequency = np.concatenate([frequency, np.full(len(extra), 1e-6)])

    def vector(word, space=rows):
        return space[pieces(word, ids)].mean(0)

    key = hashlib.sha256(json.dumps([FORMAT, AXES, DIMENSIONS, BREADTH, SHARES, prototypes, tokens, lists], sort_keys=True).encode())
    key.update(table.tobytes())
    version = f"tmd-{FORMAT}+{key.hexdigest()[:12]}".encode()

    quantised, units = [], []
    for axis, how in AXES.items():
        votes = votes_of(axis, rows, frequency, prototypes, vector)
        step = np.abs(votes).max() / 127
        quantised.append(np.rint(votes / step).astype(np.int8))
        units.append(how["sharpness"] * SHARES[axis] * step / WHOLE)

    flags = [CONTINUES * t.startswith("##") | SKIPPED * (t in INFLECTIONS) for t in tokens]
    names = [token.removeprefix("##").encode() for token in tokens]
    body = b"".join(
        [
            b"LNSPTMD\0",
            struct.pack("<II", FORMAT, len(version)),
            version,
            struct.pack("<3H", *LABELS.values()),
            struct.pack("<3f", *units),
            struct.pack("<I", len(tokens)),
            *(struct.pack("<BB", flag, len(name)) + name for flag, name in zip(flags, names)),
            np.hstack(quantised).tobytes(),
            language_sections(lists, canonical["domain"]),
            prior_sections(lists, canonical, units),
        ]
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Written aside first: a build that reads the artefact never sees half of it.
    partial = options.out.with_name(options.out.name + ".partial")
    partial.write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    partial.replace(options.out)
    print(f"{options.out}: {version.decode()}, {len(tokens)} tokens, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
