//! `lnsp doctor`: prints what [`crate::doctor`] finds out, for people or as JSON.

use super::{CommandResult, block_on};
use crate::config::Config;
use crate::doctor::{Check, DeviceRow, DoctorReport, Grade, Setting, Suggestion, examine};
use crate::output::{escape, print_block, print_json, print_line};
use crate::store::Dsn;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use comfy_table::{CellAlignment, Table, presets};
use std::process::ExitCode;

/// The arguments of `lnsp doctor`.
#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    read: Settings,
    /// Leaves out the table of devices, which keeps all cores busy for some seconds, and the questions to language
    /// model servers.
    #[arg(long)]
    no_measure: bool,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The configuration of the service, and where each value comes from.
struct Settings {
    config: Config,
    settings: Vec<Setting>,
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        Config::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Config::augment_args_for_update(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let config = Config::from_arg_matches(matches)?;
        let settings = settings(matches, &config);
        Ok(Settings { config, settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Settings::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Every setting that has a variable, in the order of the configuration.
fn settings(matches: &ArgMatches, config: &Config) -> Vec<Setting> {
    let known = Config::augment_args(Command::new("serve"));
    let mut settings = Vec::new();
    for argument in known.get_arguments() {
        let id = argument.get_id().as_str();
        let (Some(name), Ok(Some(values))) = (argument.get_env(), matches.try_get_raw(id)) else { continue };
        let value: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let secret = argument.is_hide_env_values_set();
        let value = value.join(",");
        settings.push(Setting {
            name: name.to_string_lossy().into_owned(),
            value: if secret { redacted(&value) } else { value },
            source: match matches.value_source(id) {
                Some(ValueSource::CommandLine) => "flag",
                Some(ValueSource::EnvVariable) => "environment",
                _ => "default",
            },
        });
    }
    if let (None, Some(dsn)) = (&config.database_url, config.database()) {
        settings.push(Setting { name: "PG_DSN".to_owned(), value: redacted(&dsn), source: "environment" });
    }
    settings
}

/// What can be shown of a secret: of an address all but its password, of anything else nothing.
fn redacted(value: &str) -> String {
    value.parse::<Dsn>().map_or_else(|_| "***".to_owned(), |dsn| dsn.to_string())
}

/// Prints the report; exit code 1 when the service would not start.
pub fn run(doctor: Doctor) -> CommandResult {
    let Doctor { read: Settings { config, settings }, no_measure, json } = doctor;
    let report = block_on(examine(&config, settings, !no_measure))?;
    if json {
        print_json(&serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &DoctorReport) {
    print_line(format!("lnsp {}", report.version));
    for Check { name, grade, finding, advice } in &report.checks {
        let grade = match grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Failure => "failure",
        };
        print_line(format!("{grade:<8} {name:<14} {finding}"));
        if let Some(advice) = advice {
            print_line(format!("{:<23} -> {advice}", ""));
        }
    }
    if !report.devices.is_empty() {
        print_block(format!("\n{}", table(&report.devices)));
    }
    if !report.suggestions.is_empty() {
        print_block("\nSuggested for this machine:");
    }
    for Suggestion { setting, value, because } in &report.suggestions {
        print_line(format!("  {setting}={value}  # {because}"));
    }
}

fn table(rows: &[DeviceRow]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "device", "format", "texts/s", "encoders", "product", "tokens a pass"]);
    for row in rows {
        let rate = row.texts_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        // A device that failed has its reason in the place of what could not be found out.
        let how = row.crew.as_deref().or(row.problem.as_deref()).unwrap_or_default();
        table.add_row([
            if row.chosen { "->" } else { "" },
            &row.device,
            &row.dtype,
            &rate,
            // The reason of a library may have line breaks.
            &escape(how),
            row.linear.as_deref().unwrap_or_default(),
            &row.pass_tokens.map_or_else(String::new, |tokens| tokens.to_string()),
        ]);
    }
    if let Some(rates) = table.column_mut(3) {
        rates.set_cell_alignment(CellAlignment::Right);
    }
    table
}
