//! What of a text its author wrote: without quoted mail, signatures, and the boilerplate below them.
//!
//! Addresses of web pages and mail weigh nothing either; [`super::tokens`] leaves them out word by word.

use super::mail_line::{ATTRIBUTIONS, DISCLAIMERS, FORWARDED, MAIL, MailLine};
use super::tokens::folded;
use std::borrow::Cow;

/// The most bytes of one text that are looked at: more than the words that are used of it.
const MOST_BYTES: usize = 16 * 1024;

/// With fewer words of its own, a text is about what it quotes.
const FEWEST_WORDS: usize = 5;

/// The most lines of a signature.
const MOST_SIGNATURE_LINES: usize = 12;

/// What a text says by itself.
pub(super) struct OwnWords<'a> {
    /// The text, or the lines of it that its author wrote.
    pub(super) text: Cow<'a, str>,
    /// Whether something of a mail was left out.
    pub(super) cut: bool,
}

/// Leaves out what is not its author's.
pub(super) fn own_words(text: &str) -> OwnWords<'_> {
    let text = &text[..text.floor_char_boundary(MOST_BYTES)];
    // A single line has nothing to leave out but a message that was appended to it.
    if !text.contains('\n') {
        return match inline_separator(text) {
            Some(at) if enough(&text[..at]) => OwnWords { text: Cow::Borrowed(&text[..at]), cut: true },
            _ => OwnWords { text: Cow::Borrowed(text), cut: false },
        };
    }
    let lines: Vec<MailLine<'_>> = text.lines().map(MailLine::of).collect();
    let (own, quoted) = sort(&lines);
    if own.len() == lines.len() {
        return OwnWords { text: Cow::Borrowed(text), cut: false };
    }
    let mut kept = own.join("\n");
    if !enough(&kept) && !quoted.is_empty() {
        kept = [&kept, &*quoted.join("\n")].join("\n");
    }
    OwnWords { text: Cow::Owned(kept), cut: true }
}

fn enough(text: &str) -> bool {
    text.split_whitespace().take(FEWEST_WORDS).count() == FEWEST_WORDS
}

/// The author's own lines, and those quoted.
fn sort<'a>(lines: &[MailLine<'a>]) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut own, mut quoted) = (Vec::with_capacity(lines.len()), Vec::new());
    // Whether the author has said something: before that nothing is a signature.
    let mut said = false;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let rest = &lines[at..];
        let next = rest.get(1);
        if line.quoted {
            quoted.push(line.text.trim_start_matches(['>', ' ']));
            at += 1;
        } else if line.separates() {
            quoted.extend(rest[1..].iter().map(|line| line.text));
            break;
        } else if let Some(length) = attribution(rest) {
            let after = &rest[length..];
            let blank = after.iter().take_while(|line| line.blank).count();
            if !after.get(blank).is_some_and(|line| line.quoted) {
                quoted.extend(after.iter().map(|line| line.text));
                break;
            }
            at += length;
        } else if line.header().is_some() && next.is_some_and(|next| next.header().is_some()) {
            let headers = rest.iter().take_while(|line| line.header().is_some()).count();
            if said {
                quoted.extend(rest[headers..].iter().map(|line| line.text));
                break;
            }
            let subjects = rest[..headers].iter().filter(|line| line.header().is_some_and(is_subject));
            own.extend(subjects.filter_map(|line| Some(line.text.split_once(':')?.1)));
            at += headers;
        } else if said && let Some(length) = signature(rest) {
            at += length;
        } else if line.is_added() {
            at += 1;
        } else if said && (at == 0 || lines[at - 1].blank) && is_disclaimer(rest) {
            at += paragraph(rest);
        } else {
            said |= !line.blank;
            own.push(line.text);
            at += 1;
        }
    }
    (own, quoted)
}

/// The number of lines that introduce a quoted message: mail programs break them.
fn attribution(lines: &[MailLine<'_>]) -> Option<usize> {
    let line = lines.first()?;
    if line.attributes() {
        return Some(1);
    }
    let starts = ATTRIBUTIONS.iter().any(|(start, _)| line.folded.starts_with(start));
    let joined =
        || Some(MailLine { folded: format!("{} {}", line.folded, lines.get(1)?.folded), ..MailLine::of("") });
    (starts && joined()?.attributes()).then_some(2)
}

fn is_subject(header: &str) -> bool {
    matches!(header, "subject" | "betreff" | "asunto" | "objet" | "oggetto" | "assunto" | "onderwerp")
}

/// The number of lines of a signature that begins here.
fn signature(lines: &[MailLine<'_>]) -> Option<usize> {
    let first = lines.first()?;
    let ends =
        |line: &MailLine<'_>| line.quoted || line.separates() || line.attributes() || line.header().is_some();
    if first.folded == "--" {
        // Not further than a signature can be, so that many such lines take no longer than few.
        let length = lines.iter().take(MOST_SIGNATURE_LINES + 2).take_while(|line| !ends(line)).count();
        return (length <= MOST_SIGNATURE_LINES + 1).then_some(length);
    }
    if !first.closes() {
        return None;
    }
    let (mut length, mut filled) = (1, 0);
    for line in &lines[1..] {
        let postscript = line.folded.starts_with("ps") || line.folded.starts_with("p.s");
        if ends(line) || postscript || line.words() > 9 || filled == MOST_SIGNATURE_LINES {
            break;
        }
        filled += usize::from(!line.blank);
        length += 1;
    }
    Some(length)
}

fn paragraph(lines: &[MailLine<'_>]) -> usize {
    lines.iter().take_while(|line| !line.blank && !line.quoted).count()
}

/// Whether the paragraph that begins here says that a message is confidential.
fn is_disclaimer(lines: &[MailLine<'_>]) -> bool {
    let length = paragraph(lines);
    let text: Vec<String> = lines[..length].iter().map(|line| folded(line.text)).collect();
    let text = text.join(" ");
    let has = |word: &&&str| text.contains(**word);
    MAIL.iter().any(|word| text.contains(word)) && DISCLAIMERS.iter().filter(has).count() >= 3
}

/// Where another message begins in a text whose lines were joined.
fn inline_separator(text: &str) -> Option<usize> {
    // Each run of dashes once, and not far behind it.
    let runs = text.match_indices("-----").filter(|(at, _)| !text[..*at].ends_with('-'));
    runs.map(|(at, _)| at).find(|&at| {
        let after = &text[at..];
        let after = after[..after.floor_char_boundary(80)].trim_start_matches(['-', ' ']);
        let phrase = folded(&after[..after.floor_char_boundary(40)]);
        FORWARDED.iter().any(|name| phrase.starts_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> String {
        own_words(text).text.trim().to_owned()
    }

    #[test]
    fn a_text_without_mail_is_left_alone() {
        for text in [
            "One line.",
            "Two\nlines of prose.",
            "# Heading\n\n- a list\n- of things\n\n---\n\nMore.",
            "The contract is confidential.\n\nThe recipient must not disclose it to unauthorised persons.",
            "From: a letter to a friend\nI read this.",
            "Thanks",
            "",
        ] {
            let found = own_words(text);
            assert_eq!((&*found.text, found.cut), (text, false));
        }
    }

    #[test]
    fn quoted_mail_weighs_nothing() {
        let mine = "The pump leaks again, please send someone.";
        for rest in [
            "> The invoice is paid.\n> Thanks",
            "On Tue, 4 Feb 2025 at 09:12, A. Person <a@b.example> wrote:\n> The invoice is paid.",
            "On Tue, 4 Feb 2025 at 09:12, A. Person\n<a@b.example> wrote:\n\nThe invoice is paid.",
            "Am 02.04.2025 um 08:15 schrieb Service <s@b.example>:\n> Die Rechnung ist bezahlt.",
            "El 3 de marzo de 2025, F. <f@c.example> escribió:\n> La factura.",
            "-----Original Message-----\nFrom: A\nSubject: invoice\nThe invoice is paid.",
            "-------- Weitergeleitete Nachricht --------\nDie Rechnung ist bezahlt.",
            "From: A\nSent: Monday\nTo: B\nSubject: invoice\n\nThe invoice is paid.",
            "Best regards,\nA. Person\nHead of Finance | Bank\n+49 40 5550 133",
            "--\nA. Person\nBrass band, rehearsals Wednesday",
            "Mit freundlichen Grüßen\nA. Person\nBuchhaltung",
            "Thx, Kim\nInvoices | Mobile 555",
            "Sent from my phone",
            "This e-mail is confidential. If you are not the intended recipient, delete it and notify us.",
            "Please consider the environment before printing this mail",
        ] {
            let text = format!("{mine}\n\n{rest}");
            let found = own_words(&text);
            assert_eq!((found.text.trim(), found.cut), (mine, true), "{rest}");
        }
        let joined = format!("{mine} -----Original Message----- From: A The invoice is paid.");
        assert_eq!(own(&joined), mine);
    }

    #[test]
    fn an_answer_below_the_quotation_and_a_postscript_are_kept() {
        let text = "On Monday A. wrote:\n> Old.\n\nThe pump leaks, please come soon.\n\nRegards\nB.\n\nPS: Bring oil.";
        assert_eq!(own(text), "The pump leaks, please come soon.\n\nPS: Bring oil.");
    }

    #[test]
    fn the_subject_of_a_mail_counts_and_one_that_only_quotes_is_about_that() {
        let text = "From: A\nTo: B\nSubject: The pump of line two leaks\n\nsee below";
        assert_eq!(own(text), "The pump of line two leaks\n\nsee below");
        assert_eq!(own("FYI\n\n> The pump leaks.\n> It is wet."), "FYI\n\nThe pump leaks.\nIt is wet.");
    }
}
