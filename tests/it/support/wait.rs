//! Waiting for a fact.

use std::time::Duration;

/// As [`until`], for a fact that has to be asked for.
pub async fn until_answered(what: &str, mut fact: impl AsyncFnMut() -> bool) {
    let looks = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        while !fact().await {
            again.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), looks).await.is_ok(), "never came true: {what}");
}

/// Repeats `fact` every 2 ms until it is true. The limit of 60 s is no expectation of speed: it turns a hang into a
/// message.
pub async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let looks = async {
        let mut again = tokio::time::interval(Duration::from_millis(2));
        while !fact() {
            again.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), looks).await.is_ok(), "never came true: {what}");
}
