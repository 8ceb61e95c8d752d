//! `lnsp search "text"`: asks the service and prints a table.

use super::{CommandResult, block_on, client};
use crate::output::{escape, print_block, print_error_line, print_line};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::process::ExitCode;

/// The arguments of `lnsp search`.
#[derive(Debug, Args)]
pub struct Search {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: String,
    /// How many results.
    #[arg(long, short = 'k', default_value_t = 5)]
    top_k: usize,
    /// Only this domain, by name or code.
    #[arg(long)]
    domain: Option<String>,
    /// What to look for.
    text: String,
}

/// Prints the best results, or says that there are none.
pub fn run(search: Search) -> CommandResult {
    block_on(async {
        let mut body = json!({ "query": search.text, "top_k": search.top_k });
        if let Some(domain) = search.domain {
            body["filter"] =
                json!({ "domain": domain.parse::<i64>().map_or_else(|_| json!(domain), |code| json!(code)) });
        }
        let url = format!("{}/search", search.url.trim_end_matches('/'));
        let response = client()?
            .post(url)
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .map_err(|error| {
                format!("no answer from {}; is the service running? (lnsp serve): {error}", search.url)
            })?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if !status.is_success() {
            let message = answer["error"]["message"].as_str().unwrap_or("without a reason");
            return Err(format!("the service refused the search: {message}").into());
        }
        match answer["results"].as_array().map(Vec::as_slice) {
            Some([]) | None => print_line("nothing found"),
            Some(results) => print_block(table(results)),
        }
        if answer["truncated_results"] == true {
            print_error_line("further results did not fit into the answer; ask for fewer with --top-k");
        }
        Ok(ExitCode::SUCCESS)
    })?
}

fn table(results: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["score", "text", "domain", "task", "modifier", "document"]);
    for result in results {
        let text = |value: &Value| escape(value.as_str().unwrap_or_default());
        let document = [&result["article_title"], &result["document_id"]].into_iter().find(|v| v.is_string());
        table.add_row([
            format!("{:.3}", result["score"].as_f64().unwrap_or_default()),
            shorten(result["text"].as_str().unwrap_or_default()),
            text(&result["names"]["domain"]),
            text(&result["names"]["task"]),
            text(&result["names"]["modifier"]),
            document.map(text).unwrap_or_default(),
        ]);
    }
    table
}

/// The beginning of a text as one line, so that a row stays readable: white space is a blank, everything else that
/// cannot be seen becomes an escape.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 160;
    let blank = |c: char| if c.is_whitespace() { ' ' } else { c };
    let line: String = text.chars().map(blank).take(LONGEST + 1).collect();
    if line.chars().count() > LONGEST {
        format!("{}...", escape(&line.chars().take(LONGEST).collect::<String>()))
    } else {
        escape(&line)
    }
}
