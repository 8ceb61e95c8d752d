//! `lnsp model use NAME`: puts a model to use, when no chunk lacks a vector of it.

use super::amounts::chunks;
use super::reached_database::DatabasePlace;
use super::reembed::open;
use super::second_model::{EmbedTally, SecondModel, SecondModelError};
use super::{CommandResult, block_on};
use crate::output::print_line;
use crate::store::{Dsn, ModelSwitched};
use crate::threads::lower_priority;
use clap::Args;
use std::process::ExitCode;

/// Chunks that get their vectors while all writers wait: less than a second of work.
const WITH_LOCK: u32 = 16;
/// How often more chunks may have come in the meantime.
const ROUNDS: u32 = 100;

/// `lnsp model use`
#[derive(Debug, Args)]
#[command(after_help = "\
Chunks that lack a vector of the model get one first; `lnsp reembed` does most of that without a hurry. A service that \
runs finishes what it has accepted, and starts anew with the model in the same process. To go back, use the other name.

Exit codes: 0 in use; 1 another model is in use, as before; 2 wrong arguments.")]
pub struct Use {
    /// The model: a name that `lnsp model list` shows, or a folder.
    name: String,
    /// The database of the service.
    #[command(flatten)]
    place: DatabasePlace,
}

/// Why another model stays in use.
#[derive(Debug, thiserror::Error)]
enum UseError {
    #[error(transparent)]
    Model(#[from] SecondModelError),
    #[error(
        "{name} gives no vector for {} ({why}), so nothing was changed: delete or replace them, and run it again",
        chunks(*failed)
    )]
    Failed { name: String, failed: u64, why: String },
    #[error(
        "chunks came faster than they were embedded, {ROUNDS} times, so nothing was changed; run it again when fewer come"
    )]
    NeverComplete,
}

/// Fills what is left, and switches.
pub fn run(flags: &Use) -> CommandResult {
    let database = flags.place.reach()?;
    // Of the threads that are started from here on.
    lower_priority();
    let done = block_on(put_to_use(database.dsn.clone(), flags));
    database.release()?;
    Ok(done??)
}

async fn put_to_use(dsn: Dsn, flags: &Use) -> Result<ExitCode, UseError> {
    let store = open(dsn).await?;
    let mut second = SecondModel::find(store.clone(), &flags.name, &flags.place).await?;
    let name = second.model.identity.name.clone();
    if second.model.in_use {
        print_line(format!("{name} is in use already"));
        return Ok(ExitCode::SUCCESS);
    }
    let (mut tally, mut after, mut built) = (EmbedTally::default(), 0, false);
    for _ in 0..ROUNDS {
        after = second.pass(after, None, &mut tally, &mut || false).await?;
        if let Some(why) = tally.first_failure.take() {
            return Err(UseError::Failed { name, failed: tally.failed, why });
        }
        if !built {
            // The service then has less to do while it starts anew.
            second.build_indexes(&flags.place.data_dir).await?;
            // Before the lock, under which only texts are embedded.
            second.load()?;
            (after, built) = (second.pass(after, None, &mut tally, &mut || false).await?, true);
        }
        let id = second.model.id;
        let embed = async |rows| second.vectors(rows, &mut tally).await;
        let switched = store.switch_model(id, after, WITH_LOCK, embed).await;
        match switched.map_err(SecondModelError::Store)?? {
            ModelSwitched::InUse => {
                print_line(format!("{name} is in use; a service that runs starts anew with it"));
                store.close().await;
                return Ok(ExitCode::SUCCESS);
            }
            ModelSwitched::TooManyLack | ModelSwitched::StillLack => {}
        }
    }
    Err(UseError::NeverComplete)
}
