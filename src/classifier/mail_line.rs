//! A line of a mail: a quotation, a header, a closing, or what a mail program added.

use super::tokens::folded;

/// The longest line that is taken for a greeting, a header or a line of a signature, in bytes.
const SHORT_LINE: usize = 160;

/// A line with what it is compared by.
pub(super) struct MailLine<'a> {
    pub(super) text: &'a str,
    /// As words are compared; empty for a line that is long or blank.
    pub(super) folded: String,
    pub(super) blank: bool,
    pub(super) quoted: bool,
}

impl<'a> MailLine<'a> {
    pub(super) fn of(text: &'a str) -> MailLine<'a> {
        let trimmed = text.trim();
        let short = trimmed.len() <= SHORT_LINE;
        MailLine {
            text,
            folded: if short { folded(trimmed) } else { String::new() },
            blank: trimmed.is_empty(),
            quoted: trimmed.starts_with('>'),
        }
    }

    pub(super) fn words(&self) -> usize {
        self.text.split_whitespace().count()
    }

    /// Whether what follows is another message.
    pub(super) fn separates(&self) -> bool {
        let bare = self.folded.trim_matches(|c: char| matches!(c, '-' | '_' | '=' | ' ' | '*' | ':'));
        FORWARDED.contains(&bare)
    }

    /// Whether this introduces a quoted message: "On Monday, Ann wrote:".
    pub(super) fn attributes(&self) -> bool {
        let Some(line) = self.folded.strip_suffix(':') else { return false };
        let says = |verb: &str| line.ends_with(verb) || line.contains(&format!("{verb} "));
        ATTRIBUTIONS.iter().any(|(start, verb)| line.starts_with(start) && says(verb))
            || (line.ends_with(" wrote") && line.len() <= 80)
    }

    /// The name of a mail header that the line has.
    pub(super) fn header(&self) -> Option<&str> {
        let (name, _) = self.folded.trim_start_matches('*').split_once(':')?;
        let name = name.trim_end_matches('*');
        HEADERS.contains(&name).then_some(name)
    }

    pub(super) fn closes(&self) -> bool {
        let line = self.folded.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        // "Thanks, Kim" closes as "Thanks" does.
        let phrase = match line.split_once([',', '!']) {
            Some((phrase, name)) if name.split_whitespace().count() <= 3 => phrase,
            Some(_) => return false,
            None => line,
        };
        CLOSINGS.contains(&phrase)
    }

    /// Whether a mail program or a template added it.
    pub(super) fn is_added(&self) -> bool {
        ADDED.iter().any(|start| self.folded.starts_with(start))
            || self.folded.contains("before print")
            || self.folded.contains("before you print")
            || self.folded.contains("unsubscribe")
    }
}

pub(super) const FORWARDED: [&str; 14] = [
    "original message",
    "forwarded message",
    "begin forwarded message",
    "original appointment",
    "ursprungliche nachricht",
    "urspruengliche nachricht",
    "weitergeleitete nachricht",
    "mensaje original",
    "mensaje reenviado",
    "message d'origine",
    "message transfere",
    "messaggio originale",
    "mensagem original",
    "oorspronkelijk bericht",
];

/// How a line that introduces a quoted message begins, and its verb.
pub(super) const ATTRIBUTIONS: [(&str, &str); 7] = [
    ("on ", " wrote"),
    ("am ", " schrieb"),
    ("el ", " escribio"),
    ("le ", " a ecrit"),
    ("il ", " ha scritto"),
    ("em ", " escreveu"),
    ("op ", " schreef"),
];

const HEADERS: [&str; 26] = [
    "from",
    "sent",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "reply-to",
    "von",
    "gesendet",
    "an",
    "betreff",
    "datum",
    "de",
    "enviado",
    "para",
    "asunto",
    "fecha",
    "envoye",
    "objet",
    "inviato",
    "oggetto",
    "assunto",
    "van",
    "verzonden",
    "onderwerp",
];

const CLOSINGS: [&str; 77] = [
    "best regards",
    "kind regards",
    "warm regards",
    "with best regards",
    "with kind regards",
    "kindest regards",
    "regards",
    "best wishes",
    "with best wishes",
    "warmest regards",
    "all the best",
    "all best",
    "best",
    "many thanks",
    "thanks",
    "thank you",
    "thanks in advance",
    "thank you in advance",
    "thx",
    "cheers",
    "sincerely",
    "yours",
    "yours sincerely",
    "sincerely yours",
    "yours faithfully",
    "yours truly",
    "respectfully",
    "warmly",
    "love",
    "greetings",
    "bye",
    "see you",
    "see you then",
    "take care",
    "in solidarity",
    "mit freundlichen grussen",
    "mit freundlichen gruessen",
    "mit freundlichem gruss",
    "freundliche grusse",
    "mit besten grussen",
    "beste grusse",
    "viele grusse",
    "viele gruesse",
    "liebe grusse",
    "herzliche grusse",
    "schone grusse",
    "gruss",
    "grusse",
    "hochachtungsvoll",
    "mfg",
    "lg",
    "vg",
    "danke",
    "vielen dank",
    "danke im voraus",
    "atentamente",
    "muy atentamente",
    "un saludo",
    "saludos",
    "saludos cordiales",
    "cordialmente",
    "un cordial saludo",
    "reciba un cordial saludo",
    "un abrazo",
    "un beso",
    "gracias",
    "muchas gracias",
    "cordialement",
    "bien cordialement",
    "merci",
    "cordiali saluti",
    "distinti saluti",
    "grazie",
    "atenciosamente",
    "cumprimentos",
    "met vriendelijke groet",
    "groeten",
];

const ADDED: [&str; 12] = [
    "sent from my",
    "sent via",
    "get outlook for",
    "gesendet von mein",
    "von meinem",
    "enviado desde",
    "envoye de mon",
    "inviato da",
    "please consider the environment",
    "think green",
    "follow us",
    "virus-free",
];

pub(super) const MAIL: [&str; 8] =
    ["e-mail", "email", "message", "nachricht", "mensaje", "correo", "courriel", "messaggio"];

pub(super) const DISCLAIMERS: [&str; 18] = [
    "confidential",
    "vertraulich",
    "intended",
    "recipient",
    "empfanger",
    "destinatari",
    "privileged",
    "disclos",
    "unauthori",
    "notify",
    "delete",
    "destroy",
    "attachment",
    "anexo",
    "prohibited",
    "loschen",
    "elimin",
    "in error",
];
