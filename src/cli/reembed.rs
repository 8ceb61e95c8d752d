//! `lnsp reembed`: gives stored chunks vectors of another model, beside those that are searched.

use super::amounts::chunks;
use super::reached_database::DatabasePlace;
use super::second_model::{EmbedTally, SecondModel, SecondModelError};
use super::{CommandResult, block_on, signalled};
use crate::output::{print_error_line, print_line};
use crate::store::{Dsn, Store, StoreOptions};
use crate::threads::lower_priority;
use clap::Args;
use futures_util::FutureExt;
use std::process::ExitCode;

/// Connections of the command: a pass needs one, an index two.
const CONNECTIONS: usize = 3;
/// Stopped by a signal.
const STOPPED: u8 = 130;

/// The arguments of `lnsp reembed`.
#[derive(Debug, Args)]
#[command(after_help = "\
The service goes on with its own model meanwhile; the other one computes in this process, with low priority. It can be \
stopped and run again: chunks that have a vector of the model by then are not embedded again. At the end the index of the \
model is built beside the one in use. Afterwards `lnsp model use` puts the model to use.

Exit codes: 0 every chunk has its vectors, or --limit was reached; 1 some have none; 130 stopped; 2 wrong arguments.")]
pub struct ReembedCommand {
    /// The other model: a name that `lnsp model list` shows, or a folder.
    #[arg(long)]
    model: String,
    /// The most chunks to embed now.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// The database of the service.
    #[command(flatten)]
    place: DatabasePlace,
}

/// Embeds, until no chunk lacks a vector.
pub fn run(command: &ReembedCommand) -> CommandResult {
    let database = command.place.reach()?;
    // Of the threads that are started from here on.
    lower_priority();
    let done = block_on(reembed(database.dsn.clone(), command));
    database.release()?;
    Ok(done??)
}

/// Opens the store of a command.
///
/// # Errors
/// Those of [`Store::open`].
pub(super) async fn open(dsn: Dsn) -> Result<Store, SecondModelError> {
    Ok(Store::open(StoreOptions { dsn, pool_size: CONNECTIONS }).await?)
}

async fn reembed(dsn: Dsn, command: &ReembedCommand) -> Result<ExitCode, SecondModelError> {
    let store = open(dsn).await?;
    let mut second = SecondModel::find(store.clone(), &command.model, &command.place).await?;
    let name = second.model.identity.name.clone();
    if second.model.in_use {
        print_line(format!("{name} is in use: every chunk has a vector of it"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut signal = Box::pin(signalled());
    let mut was_stopped = false;
    let mut stopped = || {
        // A future that is over is not asked again.
        was_stopped = was_stopped || signal.as_mut().now_or_never().is_some();
        was_stopped
    };
    let (mut tally, mut after) = (EmbedTally::default(), 0);
    loop {
        let before = tally.done;
        after = second.pass(after, command.limit, &mut tally, &mut stopped).await?;
        // Chunks that came during a pass are in the next one.
        if tally.done == before || command.limit.is_some_and(|limit| tally.done >= limit) || stopped() {
            break;
        }
    }
    let is_stopped = stopped();
    let left = store.count_lacking(second.model.id).await?;
    print_line(format!("{} embedded by {name}, {left} left", chunks(tally.done)));
    if let Some(why) = &tally.first_failure {
        print_error_line(format!("lnsp: {name} gives no vector for {}: {why}", chunks(tally.failed)));
    }
    if is_stopped {
        print_error_line("stopped; what is stored stays: run the same command again to go on");
        store.close().await;
        return Ok(ExitCode::from(STOPPED));
    }
    if left == 0 {
        match second.build_indexes(&command.place.data_dir).await? {
            Some(rows) => print_line(format!("its index has {rows} rows: lnsp model use {}", command.model)),
            None => print_line(format!(
                "its index is built by the service, whose data folder is not here: lnsp model use {}",
                command.model
            )),
        }
    }
    store.close().await;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
