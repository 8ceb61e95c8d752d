//! One thread and several: who runs what, who overtakes, who fails.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const ONE: NonZeroUsize = NonZeroUsize::MIN;
const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

fn counter() -> (Worker<usize>, Arc<AtomicUsize>) {
    counters(ONE)
}

fn counters(threads: NonZeroUsize) -> (Worker<usize>, Arc<AtomicUsize>) {
    let built = Arc::new(AtomicUsize::new(0));
    let count = built.clone();
    let build = move || Ok::<_, String>(count.fetch_add(1, Ordering::SeqCst) * 100);
    (Worker::spawn("counter", threads, 8, build).unwrap(), built)
}

#[tokio::test]
async fn the_resource_stays_and_a_panic_costs_that_job_alone() {
    let (worker, built) = counter();
    let next = |n: &mut usize| {
        *n += 1;
        *n
    };
    assert_eq!(worker.run(Lane::Bulk, next).await, Ok(1));
    assert_eq!(worker.run(Lane::Bulk, next).await, Ok(2));
    let broken = worker.run(Lane::Bulk, |_: &mut usize| -> usize { panic!("half done") }).await;
    assert_eq!(broken, Err(WorkerError::Panicked("half done".into())));
    assert_eq!(worker.run(Lane::Bulk, next).await, Ok(101), "what may be half-changed was built anew");
    assert_eq!(built.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn express_overtakes_bulk() {
    let (worker, _) = counter();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let order = order.clone();
        move |_: &mut usize| order.lock().unwrap().push(name)
    };
    let mut first = std::pin::pin!(worker.run(Lane::Bulk, move |_: &mut usize| held.recv().unwrap()));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut bulk = std::pin::pin!(worker.run(Lane::Bulk, note("bulk")));
    assert!(futures_util::poll!(&mut bulk).is_pending());
    let mut express = std::pin::pin!(worker.run(Lane::Express, note("express")));
    assert!(futures_util::poll!(&mut express).is_pending());
    release.send(()).unwrap();
    assert!(first.await.is_ok() && bulk.await.is_ok() && express.await.is_ok());
    assert_eq!(*order.lock().unwrap(), ["express", "bulk"]);
}

#[tokio::test]
async fn a_job_whose_caller_is_gone_is_skipped() {
    let (worker, _) = counter();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let mut first = std::pin::pin!(worker.run(Lane::Bulk, move |_: &mut usize| held.recv().unwrap()));
    assert!(futures_util::poll!(&mut first).is_pending());
    {
        let mut gone = std::pin::pin!(worker.run(Lane::Bulk, |n: &mut usize| *n = 7));
        assert!(futures_util::poll!(&mut gone).is_pending());
    }
    release.send(()).unwrap();
    first.await.unwrap();
    assert_eq!(worker.run(Lane::Bulk, |n: &mut usize| *n).await, Ok(0));
}

#[tokio::test]
async fn a_factory_that_fails_later_fails_jobs_until_it_works_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let build = move || match tries.fetch_add(1, Ordering::SeqCst) {
        1 => Err("not now".to_owned()),
        _ => Ok(0),
    };
    let worker: Worker<usize> = Worker::spawn("moody", ONE, 8, build).unwrap();
    assert!(worker.run(Lane::Bulk, |_: &mut usize| panic!("x")).await.is_err());
    let answer = worker.run(Lane::Bulk, |n: &mut usize| *n).await;
    assert_eq!(answer, Err(WorkerError::Unavailable("not now".into())));
    assert_eq!(worker.run(Lane::Bulk, |n: &mut usize| *n).await, Ok(0));
    let first = Worker::<usize>::spawn("never", ONE, 8, || Err("no".to_owned()));
    assert_eq!(first.err(), Some("no".to_owned()));
}

#[tokio::test]
async fn threads_work_at_once_each_with_its_own_resource() {
    let (worker, built) = counters(TWO);
    assert_eq!((worker.threads(), built.load(Ordering::SeqCst)), (2, 2));
    // Neither job ends before the other has begun.
    let both = Arc::new(std::sync::Barrier::new(2));
    let meet = || {
        let both = both.clone();
        move |n: &mut usize| {
            both.wait();
            (thread::current().name().map(str::to_owned), *n)
        }
    };
    let met = futures_util::join!(worker.run(Lane::Bulk, meet()), worker.run(Lane::Express, meet()));
    let mut met = [met.0.unwrap(), met.1.unwrap()];
    met.sort();
    assert_eq!(met, [(Some("counter-0".into()), 0), (Some("counter-1".into()), 100)]);
}

#[tokio::test]
async fn a_panic_on_one_thread_does_not_disturb_the_job_of_another() {
    let (worker, built) = counters(TWO);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let hold = move |n: &mut usize| {
        *n += 1;
        held.recv().unwrap();
        *n % 100
    };
    let mut other = std::pin::pin!(worker.run(Lane::Bulk, hold));
    assert!(futures_util::poll!(&mut other).is_pending());
    for again in 1..=3 {
        let broken = worker.run(Lane::Bulk, |_: &mut usize| panic!("half done")).await;
        assert_eq!(broken, Err(WorkerError::Panicked("half done".into())));
        assert_eq!(worker.run(Lane::Bulk, |n: &mut usize| *n).await, Ok(100 + 100 * again));
    }
    assert_eq!(built.load(Ordering::SeqCst), 5, "two, and one for each panic");
    release.send(()).unwrap();
    assert_eq!(other.await, Ok(1));
}

#[tokio::test]
async fn express_overtakes_bulk_on_whichever_thread_is_free_first() {
    let (worker, _) = counters(TWO);
    let order = Arc::new(Mutex::new(Vec::new()));
    let hold = || {
        let (release, held) = std::sync::mpsc::channel::<()>();
        (release, move |_: &mut usize| held.recv().unwrap())
    };
    let note = |name: &'static str| {
        let order = order.clone();
        move |_: &mut usize| order.lock().unwrap().push(name)
    };
    let ((release_one, one), (release_two, two)) = (hold(), hold());
    let mut one = std::pin::pin!(worker.run(Lane::Bulk, one));
    let mut two = std::pin::pin!(worker.run(Lane::Bulk, two));
    let mut bulk = std::pin::pin!(worker.run(Lane::Bulk, note("bulk")));
    let mut express = std::pin::pin!(worker.run(Lane::Express, note("express")));
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    assert!(futures_util::poll!(&mut bulk).is_pending() && futures_util::poll!(&mut express).is_pending());
    release_two.send(()).unwrap();
    assert!(two.await.is_ok() && express.await.is_ok() && bulk.await.is_ok());
    assert_eq!(*order.lock().unwrap(), ["express", "bulk"]);
    release_one.send(()).unwrap();
    assert!(one.await.is_ok());
}

/// Counts itself out when its thread ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn all_threads_are_joined_also_when_one_could_not_start() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let worker = Worker::spawn("all", TWO, 8, move || Ok::<_, String>(Counted(count.clone())));
    drop(worker.unwrap());
    assert_eq!(ended.load(Ordering::SeqCst), 2);

    let (tries, count) = (AtomicUsize::new(0), ended.clone());
    let second_fails = move || match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(Counted(count.clone())),
        _ => Err("no".to_owned()),
    };
    assert_eq!(Worker::spawn("half", TWO, 8, second_fails).err(), Some("no".to_owned()));
    assert_eq!(ended.load(Ordering::SeqCst), 3);
}
