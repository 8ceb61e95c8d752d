//! A promise to answer that cannot be forgotten.
//!
//! A [`ReceiptIssuer`] belongs to one upload and issues a [`Receipt`] per line. Each receipt holds a place in the
//! upload's results queue from the start, so settling never waits. A receipt that is dropped answers
//! [`Unsettled::unsettled`]. The [`ReceiptStream`] ends when the issuer and the last receipt are gone. A receipt may
//! have a witness: a callback with the answer.

use tokio::sync::mpsc::{self, OwnedPermit};

/// The answer of a receipt that is dropped unsettled.
pub trait Unsettled: Send + 'static {
    /// The answer when a receipt is dropped.
    fn unsettled() -> Self;
}

/// One answer that is owed. Settles exactly once: by [`Receipt::settle`], else when it is dropped.
pub struct Receipt<R: Unsettled> {
    tag: u64,
    place: Option<OwnedPermit<(u64, R)>>,
    witness: Option<AnswerWitness<R>>,
}

type AnswerWitness<R> = Box<dyn FnOnce(&R) + Send>;

impl<R: Unsettled> Receipt<R> {
    /// Answers. Never waits.
    pub fn settle(mut self, answer: R) {
        self.answer(answer);
    }

    /// Calls `witness` with the answer before the client gets it. It may be called in a drop, so it must neither wait
    /// nor panic.
    #[must_use]
    pub fn witnessed(mut self, witness: impl FnOnce(&R) + Send + 'static) -> Self {
        self.witness = Some(Box::new(witness));
        self
    }

    fn answer(&mut self, answer: R) {
        if let Some(place) = self.place.take() {
            if let Some(witness) = self.witness.take() {
                witness(&answer);
            }
            place.send((self.tag, answer));
        }
    }
}

impl<R: Unsettled> Drop for Receipt<R> {
    fn drop(&mut self) {
        self.answer(R::unsettled());
    }
}

/// Issues the receipts of one upload.
pub struct ReceiptIssuer<R>(mpsc::Sender<(u64, R)>);

/// The answers of one upload, in the order they were settled.
pub struct ReceiptStream<R>(mpsc::Receiver<(u64, R)>);

/// The issuer and the stream of one upload. `places` bounds the receipts that are not settled and the answers that are
/// not read, together.
pub fn receipt_channel<R: Unsettled>(places: usize) -> (ReceiptIssuer<R>, ReceiptStream<R>) {
    let (sender, receiver) = mpsc::channel(places);
    (ReceiptIssuer(sender), ReceiptStream(receiver))
}

impl<R: Unsettled> ReceiptIssuer<R> {
    /// Waits for a place, then issues a receipt whose answer carries `tag`. `None` when the stream is gone.
    pub async fn issue(&self, tag: u64) -> Option<Receipt<R>> {
        let place = self.0.clone().reserve_owned().await.ok()?;
        Some(Receipt { tag, place: Some(place), witness: None })
    }
}

impl<R> ReceiptIssuer<R> {
    /// Whether a receipt is not settled yet, or its answer not read yet.
    pub fn owes(&self) -> bool {
        self.0.capacity() < self.0.max_capacity()
    }
}

impl<R> ReceiptStream<R> {
    /// The next answer with its tag; `None` when everything is answered and the issuer is gone.
    pub async fn next(&mut self) -> Option<(u64, R)> {
        self.0.recv().await
    }

    /// As [`Self::next`], for hand-written streams.
    pub fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<(u64, R)>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Answer {
        Good,
        Lost,
    }

    impl Unsettled for Answer {
        fn unsettled() -> Self {
            Answer::Lost
        }
    }

    #[tokio::test]
    async fn every_receipt_answers_once_settled_or_dropped() {
        let (issuer, mut results) = receipt_channel(4);
        issuer.issue(1).await.unwrap().settle(Answer::Good);
        drop(issuer.issue(2).await.unwrap());
        let open = issuer.issue(3).await.unwrap();
        drop(issuer);
        assert_eq!(results.next().await, Some((1, Answer::Good)));
        assert_eq!(results.next().await, Some((2, Answer::Lost)));
        open.settle(Answer::Good);
        assert_eq!(results.next().await, Some((3, Answer::Good)));
        assert_eq!(results.next().await, None);
    }

    #[tokio::test]
    async fn a_witness_is_called_once_with_every_answer() {
        let (issuer, mut results) = receipt_channel(2);
        let (tell, heard) = std::sync::mpsc::channel();
        for tag in [1, 2] {
            let tell = tell.clone();
            let good = move |answer: &Answer| tell.send((tag, *answer == Answer::Good)).unwrap();
            let receipt = issuer.issue(tag).await.unwrap().witnessed(good);
            if tag == 1 { receipt.settle(Answer::Good) } else { drop(receipt) }
        }
        drop((tell, issuer));
        assert_eq!(heard.iter().collect::<Vec<_>>(), [(1, true), (2, false)]);
        assert_eq!(results.next().await, Some((1, Answer::Good)));
        assert_eq!(results.next().await, Some((2, Answer::Lost)));
    }

    #[tokio::test]
    async fn answers_that_are_not_read_stop_new_receipts() {
        let (issuer, mut results) = receipt_channel(1);
        issuer.issue(1).await.unwrap().settle(Answer::Good);
        let mut second = std::pin::pin!(issuer.issue(2));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(results.next().await, Some((1, Answer::Good)));
        assert!(second.await.is_some());
        drop(results);
        assert!(issuer.issue(3).await.is_none());
    }
}
