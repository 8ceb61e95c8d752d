//! Finds the model that was put to use, so that the service can start anew with it.

use super::embedding::stored_model;
use crate::config::Config;
use crate::http::ModelSwitch;
use crate::output::throttled;
use crate::store::Store;
use crate::vectorizer::{Remote, RemoteSettings};
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks for a model that is not here.
const AGAIN: Duration = Duration::from_secs(5);

/// Looks for the model of the store when that is another one.
pub(super) struct ModelSwitcher {
    pub config: Config,
    pub data_dir: PathBuf,
    pub store: Store,
    pub switch: ModelSwitch,
}

impl ModelSwitcher {
    /// Waits until another model is put to use, and looks for it until it is here. The service starts anew only then: until
    /// then it searches with what it has.
    pub async fn run(self) {
        loop {
            self.switch.noticed().await;
            match self.look().await {
                Ok(()) => {
                    self.switch.make_ready();
                    return;
                }
                Err(sentence) => {
                    throttled!(error, "{sentence}");
                    self.switch.fail(sentence);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Whether a start would have the model of the store; the error says why not, and what to do.
    async fn look(&self) -> Result<(), String> {
        let models = self.store.models().await.map_err(|error| error.to_string())?;
        let Some(stored) = models.into_iter().find(|model| model.in_use) else {
            return Err("the store has no model any more".to_owned());
        };
        let identity = stored.identity.clone();
        if let Some(servers) = &self.config.embedding_endpoint {
            let settings = RemoteSettings {
                stored: Some(identity.clone()),
                repeats: 0,
                ..RemoteSettings::at(servers.clone())
            };
            let answered = Remote::connect(settings)
                .await
                .is_ok_and(|remote| remote.identity().fingerprint == identity.fingerprint);
            return answered.then_some(()).ok_or_else(|| {
                format!(
                    "{identity} was put to use, and the embedding server does not give its vectors: start a server with \
                     it, or start the service without LNSP_EMBEDDING_ENDPOINT; or go back with lnsp model use"
                )
            });
        }
        let (config, data_dir) = (self.config.clone(), self.data_dir.clone());
        let found =
            crate::threads::spawn_computation(move || stored_model(&stored, &config, &data_dir).is_some());
        match found.await {
            Ok(true) => Ok(()),
            _ => Err(format!(
                "{identity} was put to use and is not here, so nothing is stored: put its folder into {} (lnsp model \
                 pull), or go back with lnsp model use",
                self.data_dir.join("models").display()
            )),
        }
    }
}
