//! What travels from stage to stage: the cargo, whose type changes, and the [`Trip`], which does not.

use super::home::{Home, Stray};
use super::inlet::Slot;
use super::receipt::{Receipt, Unsettled};
use crate::metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of a parcel that stays the same all the way. Dropped with its receipt unsettled, it goes [`Home`] if it was
/// inside; one that never got in has nobody to come back for it, and its receipt says that it is lost.
pub struct Trip<O: Send + Sync + 'static, R: Unsettled> {
    origin: Arc<O>,
    receipt: Option<Receipt<R>>,
    home: Arc<Home<O, R>>,
    span: tracing::Span,
    weight: usize,
    started: Instant,
    attempts: u32,
    in_hand: Option<&'static str>,
    /// It is a stray's.
    again: bool,
    /// A stage has it.
    inside: bool,
}

impl<O: Send + Sync + 'static, R: Unsettled> Trip<O, R> {
    /// A first trip. `weight` in bytes.
    pub fn new(origin: Arc<O>, weight: usize, receipt: Receipt<R>, home: Arc<Home<O, R>>) -> Self {
        let (span, started) = (tracing::Span::current(), Instant::now());
        let (attempts, in_hand, again, inside) = (0, None, false, false);
        let receipt = Some(receipt);
        Trip { origin, receipt, home, span, weight, started, attempts, in_hand, again, inside }
    }

    /// Sends a stray out again.
    pub fn again(stray: Stray<O, R>, home: Arc<Home<O, R>>) -> Self {
        Trip {
            origin: stray.origin,
            receipt: Some(stray.receipt),
            home,
            span: stray.span,
            weight: stray.weight,
            started: stray.started,
            attempts: stray.attempts,
            in_hand: None,
            again: true,
            inside: false,
        }
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        &self.origin
    }

    /// In bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Ends the trip.
    pub fn settle(mut self, answer: R) {
        if let Some(receipt) = self.receipt.take() {
            receipt.settle(answer);
        }
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> Drop for Trip<O, R> {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take()
            && (self.inside || self.again)
        {
            self.home.take_in(Stray {
                origin: self.origin.clone(),
                receipt,
                span: self.span.clone(),
                weight: self.weight,
                started: self.started,
                attempts: self.attempts,
                in_hand: self.in_hand,
            });
        }
    }
}

/// A trip with cargo and a slot: it is inside a stage.
pub struct Parcel<T, O: Send + Sync + 'static, R: Unsettled> {
    cargo: T,
    // Declared before `trip`, so that a dropped parcel is at home no later than its slot: see `Trip::drop`.
    trip: Trip<O, R>,
    slot: Slot,
    entered: Instant,
}

impl<T: 'static, O: Send + Sync + 'static, R: Unsettled> actix::Message for Parcel<T, O, R> {
    type Result = ();
}

impl<T, O: Send + Sync + 'static, R: Unsettled> Parcel<T, O, R> {
    pub(super) fn new(cargo: T, slot: Slot, mut trip: Trip<O, R>) -> Self {
        trip.inside = true;
        Parcel { cargo, trip, slot, entered: Instant::now() }
    }

    pub(super) fn into_trip(mut self) -> Trip<O, R> {
        self.trip.inside = false;
        self.trip
    }

    /// Takes the slot of the next stage; the one it had goes home.
    pub(super) fn enter(&mut self, slot: Slot) {
        self.slot = slot;
        self.entered = Instant::now();
        self.trip.in_hand = None;
    }

    /// Marks the parcel as being worked on: should `stage` die now, this one is a suspect.
    pub fn take_in_hand(&mut self, stage: &'static str) {
        self.trip.in_hand = Some(stage);
    }

    /// Marks the parcel as waiting inside the stage: nobody works on it.
    pub fn rest(&mut self) {
        self.trip.in_hand = None;
    }

    /// As [`Self::rest`], in passing.
    #[must_use]
    pub fn at_rest(mut self) -> Self {
        self.rest();
        self
    }

    /// The work begins: records how long it waited in `stage` since it entered.
    pub fn begin(&mut self, stage: &'static str) {
        self.take_in_hand(stage);
        metrics::stage_wait(stage, self.entered.elapsed());
    }

    /// The cargo.
    pub fn cargo(&self) -> &T {
        &self.cargo
    }

    /// Exchanges the cargo for what became of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Parcel<U, O, R> {
        Parcel { cargo: change(self.cargo), trip: self.trip, slot: self.slot, entered: self.entered }
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        &self.trip.origin
    }

    /// In bytes.
    pub fn weight(&self) -> usize {
        self.trip.weight
    }

    /// How often it was in the hands of a stage that died.
    pub fn attempts(&self) -> u32 {
        self.trip.attempts
    }

    /// Since the entrance took it, waiting included.
    pub fn age(&self) -> Duration {
        self.trip.started.elapsed()
    }

    /// The span of the upload it came with.
    pub fn span(&self) -> &tracing::Span {
        &self.trip.span
    }

    /// Ends the journey.
    pub fn settle(self, answer: R) {
        self.trip.settle(answer);
    }

    /// Ends the journey before the answer is given: what is left is the answer that is owed, and the slot, to be held
    /// until then.
    pub fn leave(self) -> (Option<Receipt<R>>, Slot) {
        let Parcel { mut trip, slot, .. } = self;
        (trip.receipt.take(), slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::inlet::{Load, Slots};
    use super::super::receipt::{ReceiptBook, receipt_book};
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Lost;

    impl Unsettled for Lost {
        fn unsettled() -> Self {
            Lost
        }
    }

    struct Scene {
        home: Arc<Home<u8, Lost>>,
        book: ReceiptBook<Lost>,
        slots: Arc<Slots>,
    }

    impl Scene {
        async fn trip(&self, tag: u8) -> Trip<u8, Lost> {
            Trip::new(Arc::new(tag), 1, self.book.issue(tag.into()).await.unwrap(), self.home.clone())
        }

        async fn parcel(&self, trip: Trip<u8, Lost>) -> Parcel<(), u8, Lost> {
            Parcel::new((), self.slots.acquire(1).await.unwrap(), trip)
        }
    }

    #[tokio::test]
    async fn what_is_dropped_inside_comes_home_and_what_was_never_inside_is_answered() {
        let (book, mut results) = receipt_book(8);
        let scene =
            Scene { home: Arc::default(), book, slots: Slots::new("test", Load { items: 8, bytes: 8 }) };
        drop(scene.trip(1).await);
        assert_eq!(results.next().await, Some((1, Lost)), "its client has gone while it waited for room");
        let turned_away = scene.parcel(scene.trip(2).await).await.into_trip();
        drop(turned_away);
        assert_eq!(results.next().await, Some((2, Lost)));
        assert!(scene.home.empty().is_empty());

        let mut parcel = scene.parcel(scene.trip(3).await).await;
        parcel.take_in_hand("test");
        drop(parcel);
        let mut strays = scene.home.empty();
        let stray = strays.pop().unwrap();
        assert_eq!((*stray.origin, stray.in_hand, strays.len()), (3, Some("test"), 0));

        // From home it comes home again, wherever it is dropped.
        drop(Trip::again(stray, scene.home.clone()));
        let stray = scene.home.empty().pop().unwrap();
        assert_eq!(stray.in_hand, None);
        drop(scene.parcel(Trip::again(stray, scene.home.clone())).await.into_trip());
        let stray = scene.home.empty().pop().unwrap();
        scene.parcel(Trip::again(stray, scene.home.clone())).await.settle(Lost);
        assert_eq!((results.next().await, scene.home.empty().len()), (Some((3, Lost)), 0));
        assert_eq!(scene.slots.used(), 0);
    }
}
