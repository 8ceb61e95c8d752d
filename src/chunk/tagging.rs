//! The codes of a chunk and where they come from.

use crate::tmd::{AxisConfidence, Tmd};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// In rows: the local classifier was sure enough, so that no language model was asked.
const FAST_FIRST: &str = "fast_first";
/// In rows: task and modifier are those of the local classifier; `tmd_source` says who gave the domain.
const HYBRID: &str = "hybrid";

/// Which codes chunks are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LabelChoice {
    /// Those of the client, and where it sends none, those of a source that is asked.
    #[default]
    All,
    /// Those of the client only: no source is asked.
    Client,
    /// None. Those that a client sends are not kept.
    None,
}

impl LabelChoice {
    /// Every choice, by its name in settings and requests.
    pub const NAMED: [(&str, LabelChoice); 3] =
        [("all", LabelChoice::All), ("client", LabelChoice::Client), ("none", LabelChoice::None)];
}

impl FromStr for LabelChoice {
    type Err = UnknownChoice;

    fn from_str(name: &str) -> Result<LabelChoice, UnknownChoice> {
        let known = LabelChoice::NAMED.into_iter().find(|(known, _)| name.trim().eq_ignore_ascii_case(known));
        known.map(|(_, choice)| choice).ok_or(UnknownChoice)
    }
}

/// A name of no [`LabelChoice`]. As text, the names that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownChoice;

impl fmt::Display for UnknownChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all, client or none")
    }
}

/// The source of a code triple, or that there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TmdSource {
    /// The client sent the three codes.
    Client,
    /// The local classifier.
    Local {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// The local classifier, before a language model was asked: it was sure enough.
    FastFirst {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// The local classifier, in the mode `hybrid`: it was sure enough of the domain.
    HybridLocal {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// A language model for the domain, in the mode `hybrid`; the local classifier for task and modifier.
    HybridLlm {
        /// The model's name on its server, and the version of the classifier's artefact.
        models: Arc<str>,
    },
    /// The language model.
    Llm {
        /// The model's name on its server.
        model: Arc<str>,
    },
    /// The local classifier, because the language model gave no answer.
    Fallback {
        /// Version of the classifier's artefact.
        version: Arc<str>,
        /// Why the language model gave no answer: one of a closed set of names.
        reason: Arc<str>,
    },
    /// No source was asked, and the client sent no codes, or none that are kept.
    NotAsked,
}

impl TmdSource {
    /// The name in rows and answers: `client`, `local`, `llm`, `fallback` or `none`. In the mode `hybrid`, who gave the
    /// domain.
    pub fn kind(&self) -> &'static str {
        match self {
            TmdSource::Client => "client",
            TmdSource::Local { .. } | TmdSource::FastFirst { .. } | TmdSource::HybridLocal { .. } => "local",
            TmdSource::Llm { .. } | TmdSource::HybridLlm { .. } => "llm",
            TmdSource::Fallback { .. } => "fallback",
            TmdSource::NotAsked => "none",
        }
    }

    /// The model or artefact version; `None` for codes of the client, and where no source was asked.
    pub fn model(&self) -> Option<&str> {
        match self {
            TmdSource::Client | TmdSource::NotAsked => None,
            TmdSource::Local { version: name }
            | TmdSource::FastFirst { version: name }
            | TmdSource::HybridLocal { version: name }
            | TmdSource::HybridLlm { models: name }
            | TmdSource::Llm { model: name }
            | TmdSource::Fallback { version: name, .. } => Some(name),
        }
    }

    /// Why the codes are not all those of the first source in the order: why the language model gave no answer, or
    /// `fast_first` or `hybrid`, by which it was not asked or not for all of them. `None` for all others.
    pub fn failure(&self) -> Option<&str> {
        match self {
            TmdSource::Fallback { reason, .. } => Some(reason),
            TmdSource::FastFirst { .. } => Some(FAST_FIRST),
            TmdSource::HybridLocal { .. } | TmdSource::HybridLlm { .. } => Some(HYBRID),
            TmdSource::Client | TmdSource::Local { .. } | TmdSource::Llm { .. } | TmdSource::NotAsked => None,
        }
    }

    /// The inverse of [`Self::kind`], [`Self::model`] and [`Self::failure`]. `None` for a kind that this version does
    /// not know.
    pub fn from_parts(kind: &str, model: Option<&str>, failure: Option<&str>) -> Option<TmdSource> {
        let name = || Arc::from(model.unwrap_or_default());
        match kind {
            "client" => Some(TmdSource::Client),
            "local" if failure == Some(FAST_FIRST) => Some(TmdSource::FastFirst { version: name() }),
            "local" if failure == Some(HYBRID) => Some(TmdSource::HybridLocal { version: name() }),
            "local" => Some(TmdSource::Local { version: name() }),
            "llm" if failure == Some(HYBRID) => Some(TmdSource::HybridLlm { models: name() }),
            "llm" => Some(TmdSource::Llm { model: name() }),
            "fallback" => {
                let reason = failure.unwrap_or_default().into();
                Some(TmdSource::Fallback { version: name(), reason })
            }
            "none" => Some(TmdSource::NotAsked),
            _ => None,
        }
    }

    /// Whether its codes are left out where the confidence in them is too low: those of the local classifier, where it
    /// was not asked first.
    pub fn may_be_unsure(&self) -> bool {
        matches!(self, TmdSource::Local { .. } | TmdSource::Fallback { .. })
    }
}

/// A code triple that a source gave.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundCodes {
    /// The three codes.
    pub tmd: Tmd,
    /// Where the codes came from.
    pub source: TmdSource,
    /// The confidence of the source, where it can say.
    pub confidence: Option<AxisConfidence>,
    /// How long the source took.
    pub took: Option<Duration>,
}

impl FoundCodes {
    /// The tagging of a chunk, without the codes if the source is the local classifier and its confidence in the domain
    /// is below `least`.
    pub fn sure_from(self, least: f32) -> Tagging {
        let unsure = self.confidence.is_some_and(|confidence| confidence.domain < least);
        let kept = !(unsure && self.source.may_be_unsure());
        let tagging = Tagging::from(self);
        Tagging { tmd: tagging.tmd.filter(|_| kept), ..tagging }
    }
}

impl From<FoundCodes> for Tagging {
    fn from(found: FoundCodes) -> Tagging {
        let FoundCodes { tmd, source, confidence, took } = found;
        Tagging { tmd: Some(tmd), source, confidence, took }
    }
}

/// The codes of a chunk with their source.
#[derive(Debug, Clone, PartialEq)]
pub struct Tagging {
    /// The three codes. `None` where no source was asked, and where the local classifier was not sure enough of them.
    pub tmd: Option<Tmd>,
    /// Where the codes came from.
    pub source: TmdSource,
    /// The confidence of the source, also in codes that are not kept; absent for codes of the client.
    pub confidence: Option<AxisConfidence>,
    /// How long the source took; absent for codes of the client.
    pub took: Option<Duration>,
}

impl Tagging {
    /// Codes that the client gave by itself.
    pub fn by_client(tmd: Tmd) -> Tagging {
        Tagging { tmd: Some(tmd), source: TmdSource::Client, confidence: None, took: None }
    }

    /// No codes, because no source was asked.
    pub fn not_asked() -> Tagging {
        Tagging { tmd: None, source: TmdSource::NotAsked, confidence: None, took: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_local_classifier_can_be_too_unsure() {
        let version: Arc<str> = "v".into();
        let found = |source, domain| FoundCodes {
            tmd: Tmd::new(1, 2, 3).unwrap(),
            source,
            confidence: Some(AxisConfidence { domain, task: 0.1, modifier: 0.1 }),
            took: None,
        };
        let local = TmdSource::Local { version: version.clone() };
        let fallback = TmdSource::Fallback { version: version.clone(), reason: "timeout".into() };
        for source in [local.clone(), fallback] {
            assert_eq!(found(source.clone(), 0.49).sure_from(0.5).tmd, None);
            assert_eq!(found(source.clone(), 0.49).sure_from(0.5).confidence.unwrap().domain, 0.49);
            assert_eq!(found(source, 0.5).sure_from(0.5).tmd, Tmd::new(1, 2, 3).ok());
        }
        for source in [
            TmdSource::FastFirst { version: version.clone() },
            TmdSource::HybridLocal { version: version.clone() },
            TmdSource::HybridLlm { models: version.clone() },
            TmdSource::Llm { model: version },
        ] {
            assert!(found(source.clone(), 0.1).sure_from(0.5).tmd.is_some(), "{source:?}");
        }
        assert!(found(local, 0.01).sure_from(0.0).tmd.is_some(), "the default keeps all");
    }

    #[test]
    fn a_choice_is_read_by_its_name() {
        for (name, choice) in LabelChoice::NAMED {
            assert_eq!((name.parse(), name.to_uppercase().parse()), (Ok(choice), Ok(choice)));
        }
        assert_eq!("some".parse::<LabelChoice>().unwrap_err().to_string(), "all, client or none");
    }
}
