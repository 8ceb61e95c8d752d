//! A model whose vectors the chunks of a store get beside those of the model in use: `lnsp reembed` and `lnsp model use`.

use super::amounts::{chunks, thousands};
use super::reached_database::DatabasePlace;
use crate::app::{StartError, build_indexes, location, named_model, stored_model, vectorizer_of};
use crate::config::Config;
use crate::encoder::{EncodeError, ModelFiles};
use crate::flow::{Backoff, Verdict, retry};
use crate::output::print_error_line;
use crate::store::{AddedVectors, LackingChunk, Store, StoreError, StoredModel};
use crate::vectorizer::{VectorError, Vectorizer};
use std::path::Path;
use std::time::{Duration, Instant};

/// Chunks that are read, embedded and stored at a time.
const BATCH: u32 = 128;
/// Between two lines of progress.
const PACE: Duration = Duration::from_secs(5);
/// While the database is away.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(250), ceiling: Duration::from_secs(5) };
/// How often a call of the database is tried again: for about a minute.
const RETRIES: u32 = 15;

/// Why the vectors of a model could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SecondModelError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] EncodeError),
    /// The model stopped to give vectors.
    #[error("the model gives no vectors any more: {0}; run it again to go on")]
    Vectors(VectorError),
    /// The indexes could not be built.
    #[error(
        "the vectors are stored, and their index could not be built: {0}; the service builds it when it needs it"
    )]
    Index(StartError),
    /// Nothing was stored yet.
    #[error(
        "the store has no model yet; start the service with the one you want: lnsp serve --embedding-model {0}"
    )]
    NoModel(String),
    /// A setting is not allowed.
    #[error("{0}")]
    Setting(String),
}

/// A model with the store that gets its vectors.
pub struct SecondModel {
    /// The store that gets the vectors.
    pub store: Store,
    /// The model, as the store knows it.
    pub model: StoredModel,
    vectorizer: Option<Vectorizer>,
    files: ModelFiles,
    config: Config,
}

/// The chunks of a pass.
#[derive(Debug, Default)]
pub struct EmbedTally {
    /// Chunks that have vectors now.
    pub done: u64,
    /// Chunks that the model gave no vector for.
    pub failed: u64,
    /// The reason of the first of them.
    pub first_failure: Option<String>,
}

impl SecondModel {
    /// Finds a model by its name or folder, or as the store knows it, and notes it in the store.
    pub async fn find(
        store: Store,
        name: &str,
        place: &DatabasePlace,
    ) -> Result<SecondModel, SecondModelError> {
        let config = Config::of_environment().map_err(SecondModelError::Setting)?;
        let models = store.models().await?;
        if !models.iter().any(|model| model.in_use) {
            return Err(SecondModelError::NoModel(name.to_owned()));
        }
        let (files, location) = match named_model(name, &config, &place.data_dir) {
            Ok(files) => {
                let location = location(name, &files);
                (files, location)
            }
            Err(error) => {
                // A folder that was named by its path once is known by its name afterwards.
                let known = models.iter().find(|model| model.identity.name == name);
                let files = known.and_then(|model| stored_model(model, &config, &place.data_dir));
                let Some(files) = files else { return Err(error.into()) };
                let location = location(&files.folder.display().to_string(), &files);
                (files, location)
            }
        };
        let identity = files.identity()?;
        let id = store.register_model(&identity, &location).await?;
        let in_use = models.iter().any(|model| model.id == id && model.in_use);
        let model = StoredModel { id, identity, location: Some(location), in_use };
        Ok(SecondModel { store, model, vectorizer: None, files, config })
    }

    /// Reads the weights. Other calls do that, too, when they need them.
    pub fn load(&mut self) -> Result<&Vectorizer, SecondModelError> {
        if self.vectorizer.is_none() {
            let setup = vectorizer_of(&self.config, &self.files, None)?;
            print_error_line(format!("{}: {}, {}", self.model.identity.name, setup.device, setup.measured));
            self.vectorizer = Some(setup.vectorizer);
        }
        self.vectorizer
            .as_ref()
            .ok_or_else(|| SecondModelError::Setting("the model is not loaded".to_owned()))
    }

    /// Gives vectors to the chunks that lack them and were last changed after `after`, up to now; at most `limit`.
    /// Returns the clock value up to which no chunk lacks any, but for those of the tally that failed. `stopped` is asked
    /// between batches.
    pub async fn pass(
        &mut self,
        after: i64,
        limit: Option<u64>,
        tally: &mut EmbedTally,
        stopped: &mut impl FnMut() -> bool,
    ) -> Result<i64, SecondModelError> {
        let upto = persist(|| self.store.clock()).await?;
        let left = persist(|| self.store.count_lacking(self.model.id)).await?;
        let mut progress = PassProgress { started: Instant::now(), said: None, before: tally.done, left };
        let mut reached = after;
        loop {
            let room = limit.map_or(u64::from(BATCH), |limit| limit.saturating_sub(tally.done));
            let batch = u32::try_from(room).unwrap_or(BATCH).min(BATCH);
            if batch == 0 || stopped() {
                return Ok(reached);
            }
            let (id, range) = (self.model.id, (reached, upto));
            let rows = persist(|| self.store.lacking_chunks(id, range, batch)).await?;
            let Some(last) = rows.last().map(|row| row.seq) else { return Ok(upto) };
            let vectors = self.vectors(rows, tally).await?;
            persist(|| self.store.add_vectors(id, &vectors)).await?;
            tally.done += vectors.len() as u64;
            reached = last;
            progress.say(tally.done);
        }
    }

    /// The vectors of some chunks. One of which the model gives none is counted, and left out.
    pub async fn vectors(
        &mut self,
        rows: Vec<LackingChunk>,
        tally: &mut EmbedTally,
    ) -> Result<Vec<AddedVectors>, SecondModelError> {
        let vectorizer = self.load()?.clone();
        let texts = rows.iter().flat_map(|row| row.concept.iter().chain(&row.question).cloned()).collect();
        let mut vectors = vectorizer.vectors(texts).await.into_iter();
        let mut added = Vec::with_capacity(rows.len());
        for LackingChunk { seq, item, concept, question } in rows {
            let mut next = |text: Option<String>| text.and_then(|_| vectors.next()).transpose();
            match (next(concept), next(question)) {
                (Ok(concept), Ok(question)) => added.push(AddedVectors { seq, item, concept, question }),
                (Err(error), _) | (_, Err(error)) => {
                    tally.failed += 1;
                    tally.first_failure.get_or_insert_with(|| error.to_string());
                    if is_of_all_texts(&error) {
                        return Err(SecondModelError::Vectors(error));
                    }
                }
            }
        }
        Ok(added)
    }

    /// Builds the indexes of the model beside those in use, in the data folder of the service, if that is here. Returns
    /// the rows in them.
    pub async fn build_indexes(&self, data_dir: &Path) -> Result<Option<u64>, SecondModelError> {
        if !data_dir.join("index").is_dir() {
            return Ok(None);
        }
        let built = build_indexes(data_dir, &self.store, &self.model, self.config.index.map_size()).await;
        built.map(Some).map_err(SecondModelError::Index)
    }
}

/// Whether the model is at fault, and not one text.
fn is_of_all_texts(error: &VectorError) -> bool {
    matches!(error, VectorError::Count { .. } | VectorError::Loading | VectorError::Gone)
}

/// Calls the database until it answers, for about a minute.
async fn persist<T, F: Future<Output = Result<T, StoreError>>>(
    call: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let classify = |error: &StoreError, tries| Verdict::retry_if(error.is_transient() && tries < RETRIES);
    retry(PAUSES, classify, call).await
}

/// How far a pass is, a line now and then.
struct PassProgress {
    started: Instant,
    said: Option<Instant>,
    before: u64,
    left: u64,
}

impl PassProgress {
    fn say(&mut self, done: u64) {
        if self.said.is_some_and(|said| said.elapsed() < PACE) {
            return;
        }
        self.said = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs_f64();
        print_error_line(progress_line(done - self.before, self.left, seconds));
    }
}

/// `1,234 chunks done, 5,678 left, 210 a second, 27 s to go`.
fn progress_line(done: u64, of: u64, seconds: f64) -> String {
    let (left, rate) = (of.saturating_sub(done), done as f64 / seconds.max(1e-3));
    let to_go = (left as f64 / rate.max(1e-3)).round() as u64;
    let time = match to_go {
        0..=119 => format!("{to_go} s"),
        120..=7_199 => format!("{} min", to_go / 60),
        _ => format!("{} h", to_go / 3_600),
    };
    format!("{} done, {} left, {rate:.0} a second, {time} to go", chunks(done), thousands(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left_and_for_how_long() {
        assert_eq!(progress_line(128, 1_408, 1.0), "128 chunks done, 1,280 left, 128 a second, 10 s to go");
        assert_eq!(progress_line(1, 100_001, 10.0), "1 chunk done, 100,000 left, 0 a second, 277 h to go");
        assert_eq!(progress_line(5, 3, 1.0), "5 chunks done, 0 left, 5 a second, 0 s to go", "more came");
    }
}
