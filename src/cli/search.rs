//! `lnsp search "text"`: asks the service and prints the results, or its answer as JSON.

use super::service_request::error_message;
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::{escape, print_block, print_error_line, print_foreign_json, print_line, terminal_width};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Filters that have options of their own.
const FILTERS: [&str; 6] = ["dataset_source", "document_id", "domain", "task", "modifier", "source_document"];
/// Before the name of a value of the metadata.
const METADATA: &str = "metadata.";

/// The arguments of `lnsp search`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 answered, also when nothing was found; 1 the service refused the search or did not answer.

lnsp labels lists the names of domains, tasks and modifiers.")]
pub struct Search {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// How many results.
    #[arg(long, short = 'k', default_value_t = 5)]
    top_k: usize,
    /// Only this dataset.
    #[arg(long)]
    dataset: Option<String>,
    /// Only this document.
    #[arg(long)]
    document: Option<String>,
    /// Only this domain, by name or code.
    #[arg(long)]
    domain: Option<String>,
    /// Only this task, by name or code.
    #[arg(long)]
    task: Option<String>,
    /// Only this modifier, by name or code.
    #[arg(long)]
    modifier: Option<String>,
    /// Only chunks with this value of a field: dataset_source, document_id, source_document, domain, task, modifier, or
    /// metadata.NAME. Can be repeated; one of several values of a field has to match.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = filter)]
    filter: Vec<(String, String)>,
    /// What the chunks are found by: the meaning of the text, its words, or both.
    #[arg(long, value_enum, default_value_t = FoundBy::Vector)]
    mode: FoundBy,
    /// With --mode hybrid: how much the words count against the meaning, 0 to 1.
    #[arg(long, value_name = "WEIGHT")]
    keyword_weight: Option<f32>,
    /// Of chunks with equal texts, or of the chunks of a document, prints only the best.
    #[arg(long, value_name = "WHAT", value_enum)]
    collapse: Option<Alike>,
    /// What the text is compared with: the concepts of the chunks (their texts, where they have none), their questions,
    /// or both.
    #[arg(long = "in", value_name = "WHAT", value_enum, default_value_t = ComparedText::Concept)]
    search_in: ComparedText,
    /// Prints the answer of the service as JSON.
    #[arg(long)]
    json: bool,
    /// What to look for.
    text: String,
}

/// What a text is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ComparedText {
    Concept,
    Question,
    Both,
}

/// What chunks are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FoundBy {
    Vector,
    Keyword,
    Hybrid,
}

/// Which chunks are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Alike {
    Text,
    Document,
}

/// The name of a choice, as the service reads it.
fn name_of(choice: impl ValueEnum) -> Value {
    json!(choice.to_possible_value().as_ref().map(PossibleValue::get_name))
}

/// Reads `field=value`.
fn filter(text: &str) -> Result<(String, String), String> {
    let is_field = |field: &str| {
        FILTERS.contains(&field) || field.strip_prefix(METADATA).is_some_and(|name| !name.is_empty())
    };
    match text.split_once('=') {
        Some((field, value)) if is_field(field.trim()) => Ok((field.trim().to_owned(), value.to_owned())),
        _ => Err(format!(
            "--filter: expected FIELD=VALUE with a field of {}, {METADATA}NAME, received '{text}'",
            FILTERS.join(", ")
        )),
    }
}

impl Search {
    /// The body of the request.
    fn query(&self) -> Value {
        let options = [&self.dataset, &self.document, &self.domain, &self.task, &self.modifier];
        let options = FILTERS.into_iter().zip(options);
        let options = options.filter_map(|(field, value)| Some((field.to_owned(), json!(value.as_ref()?))));
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (field, value) in &self.filter {
            values.entry(field).or_default().push(value);
        }
        let mut metadata = Map::new();
        let mut filter = Map::new();
        for (field, values) in values {
            match field.strip_prefix(METADATA) {
                Some(name) => metadata.insert(name.to_owned(), json!(values)),
                None => filter.insert(field.to_owned(), json!(values)),
            };
        }
        filter.extend(options);
        if !metadata.is_empty() {
            filter.insert("metadata".to_owned(), Value::Object(metadata));
        }
        let mut query = json!({ "query": self.text, "top_k": self.top_k, "filter": filter });
        // A service of an earlier version does not know these fields.
        if self.search_in != ComparedText::Concept {
            query["search_in"] = name_of(self.search_in);
        }
        if self.mode != FoundBy::Vector {
            query["mode"] = name_of(self.mode);
        }
        if let Some(weight) = self.keyword_weight {
            query["keyword_weight"] = json!(weight);
        }
        if let Some(alike) = self.collapse {
            query["collapse"] = name_of(alike);
        }
        query
    }
}

/// A result, as far as it is printed. What a service of another version leaves out is left out here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FoundChunk {
    id: String,
    score: f64,
    text: String,
    dataset_source: String,
    document_id: Option<String>,
    article_title: Option<String>,
    matched: String,
    concept_text: Option<String>,
    probe_question: Option<String>,
    names: AxisLabels,
    tmd: LabelOrigin,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AxisLabels {
    domain: Option<String>,
    task: Option<String>,
    modifier: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LabelOrigin {
    source: String,
    confidence: Option<LabelConfidence>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct LabelConfidence {
    domain: f64,
    task: f64,
    modifier: f64,
}

#[derive(Debug, Deserialize)]
struct SearchAnswer {
    results: Vec<FoundChunk>,
    #[serde(default)]
    truncated_results: bool,
}

/// Prints the best results, or says that there are none.
pub fn run(search: Search) -> CommandResult {
    block_on(async {
        let request = client()?.post(search.url.at("/search")).header("Content-Type", "application/json");
        let response = request.body(search.query().to_string()).send().await.map_err(|error| {
            format!("no answer from {}; is the service running? (lnsp serve): {error}", search.url)
        })?;
        let status = response.status();
        let body = response.text().await?;
        if !status.is_success() {
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            return Err(format!("the service refused the search: {}", error_message(&answer)).into());
        }
        if search.json {
            print_foreign_json(body.trim());
            return Ok(ExitCode::SUCCESS);
        }
        let answer: SearchAnswer = serde_json::from_str(&body).map_err(|error| {
            format!("the answer of the service cannot be read: {error}; are both of one version?")
        })?;
        let width = terminal_width();
        for (place, found) in answer.results.iter().enumerate() {
            print_block(block(place + 1, found, width));
        }
        if answer.results.is_empty() {
            print_line("nothing found");
        }
        if answer.truncated_results {
            print_error_line("further results did not fit into the answer; ask for fewer with --top-k");
        }
        Ok(ExitCode::SUCCESS)
    })?
}

/// The most lines of text that are printed of a result.
const TEXT_LINES: usize = 3;
const INDENT: &str = "   ";

/// A result as lines of at most `width` columns: score and id, where it is from, its labels, the question or the concept
/// that was found, the beginning of its text.
fn block(place: usize, found: &FoundChunk, width: usize) -> String {
    let head = format!("{place}. {:.3}  ", found.score);
    let head = format!("{head}{}", fitted(&found.id, width.saturating_sub(head.len())));
    let mut from = format!("dataset {}", escape(&found.dataset_source));
    for (what, name) in [("document", &found.document_id), ("title", &found.article_title)] {
        from.extend(name.iter().map(|name| format!(", {what} {}", escape(name))));
    }
    let labels = labels(found);
    let blank = |c: char| if c.is_whitespace() { ' ' } else { c };
    // More would not fit, whatever is in it.
    let beginning = |text: &str| text.chars().map(blank).take(TEXT_LINES * width).collect::<String>();
    let text = beginning(&found.text);
    let mut lines = vec![head];
    lines.extend(wrapped(&from, width, 2));
    lines.extend(wrapped(&labels, width, 2));
    let (what, compared) = match found.matched.as_str() {
        "question" => ("question: ", &found.probe_question),
        _ => ("concept: ", &found.concept_text),
    };
    if let Some(compared) = compared {
        lines.extend(wrapped(&format!("{what}{}", escape(&beginning(compared))), width, 2));
    }
    lines.extend(wrapped(&escape(&text), width, TEXT_LINES));
    lines.join("\n")
}

fn labels(found: &FoundChunk) -> String {
    let confidence = found.tmd.confidence;
    let label = |name: &str, sure: fn(&LabelConfidence) -> f64| match confidence.as_ref().map(sure) {
        Some(sure) => format!("{} {sure:.2}", escape(name)),
        None => escape(name),
    };
    let AxisLabels { domain: Some(domain), task: Some(task), modifier: Some(modifier) } = &found.names else {
        let unsure = |sure: LabelConfidence| {
            format!(" ({} was not sure: {:.2})", escape(&found.tmd.source), sure.domain)
        };
        return format!("no labels{}", confidence.map(unsure).unwrap_or_default());
    };
    let each = [label(domain, |c| c.domain), label(task, |c| c.task), label(modifier, |c| c.modifier)];
    format!("{} (from {})", each.join(", "), escape(&found.tmd.source))
}

/// At most `most` lines, indented; a text that is longer ends with `...`.
fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let options = textwrap::Options::new(width.max(20)).initial_indent(INDENT).subsequent_indent(INDENT);
    let mut lines: Vec<String> =
        textwrap::wrap(text.trim(), options).into_iter().map(std::borrow::Cow::into_owned).collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            let kept = textwrap::core::display_width(last).min(width.max(20) - 4);
            *last = format!("{} ...", fitted(last, kept));
        }
    }
    lines
}

/// The beginning of a text that takes at most `width` columns.
fn fitted(text: &str, width: usize) -> String {
    let mut fitted = escape(text);
    while textwrap::core::display_width(&fitted) > width {
        fitted.pop();
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> FoundChunk {
        serde_json::from_value(json!({
            "id": "n-1", "score": 0.81234, "text": "word ".repeat(100), "dataset_source": "d", "document_id": "doc",
            "names": {"domain": "Science", "task": "Fact Retrieval", "modifier": "Historical"},
            "tmd": {"source": "local", "confidence": {"domain": 0.934, "task": 0.5, "modifier": 1.0}},
        }))
        .unwrap()
    }

    #[test]
    fn a_result_says_what_it_is_where_it_is_from_and_how_sure_its_labels_are() {
        let expected = "\
1. 0.812  n-1
   dataset d, document doc
   Science 0.93, Fact Retrieval 0.50, Historical 1.00 (from local)
   word word";
        assert!(block(1, &found(), 80).starts_with(expected), "{}", block(1, &found(), 80));
        let from_client =
            FoundChunk { tmd: LabelOrigin { source: "client".to_owned(), confidence: None }, ..found() };
        assert_eq!(labels(&from_client), "Science, Fact Retrieval, Historical (from client)");
        let none = LabelOrigin { source: "none".to_owned(), confidence: None };
        let none = FoundChunk { names: AxisLabels::default(), tmd: none, ..found() };
        assert_eq!(labels(&none), "no labels");
        let unsure = FoundChunk { names: AxisLabels::default(), ..found() };
        assert_eq!(labels(&unsure), "no labels (local was not sure: 0.93)");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_whatever_a_result_holds() {
        let wide = "漢字👩‍👩‍👧\u{1b}[2J".repeat(200);
        let found = FoundChunk {
            id: wide.clone(),
            text: wide.clone(),
            dataset_source: wide.clone(),
            concept_text: Some(wide.clone()),
            document_id: Some("x".repeat(512)),
            ..found()
        };
        for width in [20, 40, 80, 200] {
            let block = block(10, &found, width);
            assert!(!block.contains('\u{1b}'));
            for line in block.lines() {
                assert!(textwrap::core::display_width(line) <= width, "{width}: {line}");
            }
            assert!(block.lines().count() <= 1 + 2 + 2 + 2 + TEXT_LINES);
        }
    }

    #[test]
    fn a_filter_names_a_field_that_can_be_filtered() {
        assert_eq!(filter("domain=Law"), Ok(("domain".to_owned(), "Law".to_owned())));
        assert_eq!(filter("document_id=a=b").unwrap().1, "a=b");
        assert_eq!(filter("metadata.year=2026").unwrap().0, "metadata.year");
        for wrong in ["domain", "colour=red", "metadata.=x", "=x", ""] {
            assert!(filter(wrong).unwrap_err().contains("dataset_source, document_id, domain"), "{wrong}");
        }
    }
}
