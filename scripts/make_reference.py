"""Makes the reference vectors that the encoder's tests compare with.

    python scripts/make_reference.py --model .deps/models/all-minilm-l6-v2 --out tests/data/reference

Needs sentence-transformers (made with 5.7 on torch 2.13, CPU, f32); nothing else in the project does, so it is run
by hand and its result is checked in: reference_texts.json, an array of strings, and reference_vectors.f32, one
normalised vector for each text, little-endian f32, one after the other. long_texts.json and long_vectors.f32 are the
same for a few texts that the model reads with all of its 512 positions.
"""

import argparse
import json
import os
import random
from pathlib import Path

COUNT = 200

# Written for this file. Every one is a text of its own; the longer texts are put together from them.
SENTENCES = [
    "The harbour was quiet after the last ferry had left for the islands.",
    "A compiler turns a program into instructions that a processor can carry out.",
    "She keeps her grandmother's recipes in a tin box above the stove.",
    "When the pressure drops quickly, the weather is about to change.",
    "Our warehouse moved 1,250 pallets in March, 12.5 % more than a year before.",
    "Nobody had told the new tenants that the lift stops at the fourth floor.",
    "The judge asked both sides to hand in their papers before Friday noon.",
    "Salt lowers the temperature at which water freezes.",
    "He tuned the cello by ear, then waited for the oboe's A.",
    "Backups that were never restored are only hopes.",
    "The patient's fever went down two hours after the second dose.",
    "Turn left at the mill, cross the bridge, and follow the river for three miles.",
    "If interest rates rise, the price of an existing bond falls.",
    "The bees return to the same field as long as the clover flowers.",
    "Please restart the router, wait for the green light, and try again.",
    "A good contract says what happens when things go wrong.",
    "The goalkeeper guessed right and pushed the ball around the post.",
    "Old maps of this coast show a village that is now under the sea.",
    "Two of the three sensors reported the same value; the third was silent.",
    "Children learn the rules of a language long before they can name them.",
    "The telescope collects light that left its star before the pyramids were built.",
    "We painted the fence twice because the first coat was washed off by rain.",
    "An index makes reading faster and writing slower.",
    "The tailor measured the sleeve again and shook his head.",
    "Queue length is a poor measure of load when the work items differ in size.",
    "Bread needs flour, water, salt, yeast and above all time.",
    "The minister answered the question without saying anything.",
    "A fault line runs right under the old reservoir.",
    "They met at a chess club where neither of them played chess.",
    "The engine starts only when the clutch is pressed all the way down.",
]

WORDS = ["harbour", "Compiler", "RUST", "antidisestablishmentarianism", "a", "I", "42", "naïve", "don't", "co-operate"]

SCRIPTS = [
    "Der Zug nach Köln fährt heute von Gleis fünf, größere Verspätungen sind möglich.",
    "Le café était fermé, alors nous avons mangé une crêpe près de la gare.",
    "¿Dónde está la llave del almacén? Mañana la necesitaré a las ocho.",
    "Źródło było zamknięte, więc poszliśmy w stronę jeziora.",
    "Rüzgâr çıkınca ışıklar söndü; İstanbul'da kimse şaşırmadı.",
    "Мы оставили лодку у причала и пошли к маяку.",
    "Το καράβι έφυγε νωρίς το πρωί για τα νησιά.",
    "הספר נמצא על המדף השני מימין.",
    "القارب الصغير ينتظر عند الميناء القديم.",
    "नदी के किनारे एक पुराना पेड़ है।",
    "ร้านกาแฟเปิดตั้งแต่เจ็ดโมงเช้า",
    "港口的早晨很安静,只有海鸥的声音。",
    "図書館は駅の北側にあり、夜九時まで開いています。",
    "도서관은 역 뒤에 있고 저녁 아홉 시에 닫습니다.",
    "Con tàu rời bến lúc bình minh.",
    "Նավը հեռացավ նավահանգստից առավոտյան։",
    "გემი დილით ადრე გავიდა ნავსადგურიდან.",
    "கப்பல் காலையில் துறைமுகத்தை விட்டுச் சென்றது.",
    "A sentence that moves from English через русский まで 一息に.",
]

MARKS = [
    "!",
    "...",
    "?!?!",
    "—",
    "$ 9.99",
    "100%",
    "C++ / C# / F#",
    "e = m * c^2; a != b && c <= d",
    "user.name+tag@mail.example",
    "path/to/some_file-v2.tar.gz",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\"}}",
    "<p class=\"x\">Hello &amp; goodbye</p>",
    "fn main() { println!(\"{}\", 1 + 1); }",
    "SELECT id, name FROM people WHERE age >= 30 ORDER BY name;",
    "2024-02-29T23:59:60Z",
    "+44 (0)20 7946 0000",
    "3.14159265358979323846",
    "“Quoted,” she said — ‘twice’ … and left.",
    "#hashtag @mention ~tilde `code` *bold* _underline_",
    "[CLS] [SEP] [MASK] [UNK] [PAD] are names of special tokens",
]

ODD = [
    "🙂",
    "🎉🎉🎉 party time 🎂",
    "family: 👨‍👩‍👧‍👦, flag: 🇮🇸, thumb: 👍🏽",
    "I ❤️ tea ☕ and ⚡ storms",
    "  leading and trailing blanks   ",
    "tab\tseparated\tvalues",
    "line one\nline two\r\nline three",
    "no\u00a0break\u2009thin\u3000wide blanks",
    "zero\u200bwidth\u200djoined\ufeffmarks",
    "combining: e\u0301 a\u0308 n\u0303 against é ä ñ",
    "ligatures ﬁ ﬂ and ½ ¼ ² ³ ℃ №",
    "fullwidth ABC 123",
    "𝓯𝓪𝓷𝓬𝔂 𝕝𝕖𝕥𝕥𝕖𝕣𝕤",
    "soft\u00adhyphen and control \u0007 character",
    "right \u202eto left\u202c override",
    "replacement \ufffd character",
    "ALL CAPITALS SHOUT LOUDLY AT NOBODY",
    "mIxEd CaSe WoRdS aNd CamelCaseIdentifiersInARow",
    "ﷺ a long ligature",
    "supplementary 𠮷野家 ideograph",
]


def texts():
    """One word to well over 512 tokens; the same list on every machine."""
    dice = random.Random(20)
    made = [*WORDS, *SENTENCES, *SCRIPTS, *MARKS, *ODD]
    made.append("x" * 100)  # longer than a word may be: one unknown token at 101 characters, pieces at 100
    made.append("x" * 101)
    made.append("ab" * 400)
    made.append("word " * 253 + "end")  # 254 words and two special tokens: just fits into 256
    made.append("word " * 254 + "end")  # one too many
    made.append("? " * 700)
    made.append("".join(SCRIPTS[11:14]) * 12)  # no blanks
    made.append(" ".join(SCRIPTS))
    made.append(" ".join(MARKS))
    made.append(" ".join(ODD))
    # What chunks look like: two to six sentences, then ever longer ones.
    while len(made) < COUNT - 20:
        made.append(" ".join(dice.sample(SENTENCES, dice.randint(2, 6))))
    for step in range(20):
        pool = SENTENCES + (SCRIPTS if step % 4 == 3 else [])
        made.append(" ".join(dice.choice(pool) for _ in range(8 + 3 * step)))
    assert len(made) == COUNT
    assert len(set(made)) == COUNT
    return made


def texts_of_lengths(count, lengths):
    """A text for each number of tokens, as `count` counts them."""
    words = " ".join(SENTENCES * 8).split(" ")
    for length in lengths:
        text = ""
        for word in words:
            longer = f"{text} {word}".strip()
            # A shorter word may still fit.
            if count(longer) <= length:
                text = longer
            if count(text) == length:
                break
        assert count(text) == length, (length, count(text))
        yield text


def write(folder, name, chosen, vectors):
    (folder / f"{name}_texts.json").write_text(json.dumps(chosen, ensure_ascii=True, indent=0) + "\n")
    (folder / f"{name}_vectors.f32").write_bytes(vectors.astype("<f4").tobytes())


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=Path, required=True, help="folder of the model")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the two files")
    given = arguments.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(given.model.resolve()), device="cpu")

    def count(text):
        return len(model.tokenizer(text, truncation=False)["input_ids"])

    def encode(chosen):
        # One text at a time: no padding, so nothing but the text itself shapes its vector.
        vectors = model.encode(chosen, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
        assert vectors.shape == (len(chosen), 384)
        return vectors

    # Nothing is left of the last one but the special tokens.
    chosen = [*texts(), *texts_of_lengths(count, [31, 127]), "\u200b \u200b"]
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out, "reference", chosen, encode(chosen))
    model.max_seq_length = 512
    long = [*texts_of_lengths(count, [511, 512]), " ".join(SENTENCES * 2)]
    write(given.out, "long", long, encode(long))

    tokens = sorted(map(count, chosen))
    print(f"{len(chosen)} texts of {tokens[0]} to {tokens[-1]} tokens (median {tokens[len(tokens) // 2]}),")
    print(f"{sum(length > 256 for length in tokens)} longer than the 256 that the model reads")


if __name__ == "__main__":
    main()
