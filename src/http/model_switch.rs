//! Whether another embedding model was put to use since the service started, and what comes of it.

use std::sync::Arc;
use tokio::sync::watch;

/// How far the service is with a model that was put to use. Clones share it.
#[derive(Debug, Clone)]
pub struct ModelSwitch(Arc<watch::Sender<SwitchPhase>>);

/// What is known of the other model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum SwitchPhase {
    /// There is none: the store has the model of this service.
    #[default]
    None,
    /// It is looked for.
    Noticed,
    /// It cannot be used here: why, and what to do.
    Failed(String),
    /// It is here: the service can start anew with it.
    Ready,
}

impl Default for ModelSwitch {
    fn default() -> Self {
        ModelSwitch(Arc::new(watch::Sender::new(SwitchPhase::None)))
    }
}

impl ModelSwitch {
    /// The store has another model now, or is another one that was restored in its place. From here on the service takes
    /// nothing that it would have to embed.
    pub fn notice(&self) {
        self.0.send_if_modified(|phase| {
            let news = *phase == SwitchPhase::None;
            if news {
                *phase = SwitchPhase::Noticed;
            }
            news
        });
    }

    /// The store has the model of this service again.
    pub fn withdraw(&self) {
        self.0.send_if_modified(|phase| {
            let news = !matches!(phase, SwitchPhase::None | SwitchPhase::Ready);
            if news {
                *phase = SwitchPhase::None;
            }
            news
        });
    }

    /// The model cannot be used here; `sentence` says why, and what to do.
    pub fn fail(&self, sentence: String) {
        self.0.send_replace(SwitchPhase::Failed(sentence));
    }

    /// The model is here: the service can start anew with it.
    pub fn make_ready(&self) {
        self.0.send_replace(SwitchPhase::Ready);
    }

    /// Why the service takes nothing to embed, as a sentence; `None` while it has the model of the store.
    pub fn reason(&self) -> Option<String> {
        match &*self.0.borrow() {
            SwitchPhase::None => None,
            SwitchPhase::Noticed | SwitchPhase::Ready => Some(
                "the store has another embedding model, or is another store; the service starts anew with it"
                    .to_owned(),
            ),
            SwitchPhase::Failed(sentence) => Some(sentence.clone()),
        }
    }

    /// Waits until the store has another model than this service.
    pub async fn noticed(&self) {
        self.wait_for(|phase| *phase != SwitchPhase::None).await;
    }

    /// Waits until the service can start anew with the model of the store.
    pub async fn ready(&self) {
        self.wait_for(|phase| *phase == SwitchPhase::Ready).await;
    }

    async fn wait_for(&self, what: impl FnMut(&SwitchPhase) -> bool) {
        // The sender is part of `self`, so the wait ends only with the phase.
        drop(self.0.subscribe().wait_for(what).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_follows_the_phase() {
        let switch = ModelSwitch::default();
        assert_eq!(switch.reason(), None);
        switch.notice();
        assert!(switch.reason().is_some_and(|reason| reason.contains("starts anew")));
        switch.fail("it is not here".to_owned());
        switch.notice();
        assert_eq!(switch.reason().as_deref(), Some("it is not here"), "it was noticed before");
        switch.withdraw();
        assert_eq!(switch.reason(), None);
        switch.make_ready();
        switch.withdraw();
        assert!(switch.reason().is_some(), "it has begun");
    }
}
