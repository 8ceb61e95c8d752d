//! Pools of scripted servers, with short pauses. What is asserted is counts and states, not times.

use super::super::call::{CallError, CallPolicy};
use super::*;
use crate::flow::Backoff;
use futures_util::FutureExt;
use std::sync::atomic::AtomicUsize;

const fn always(pause: Duration) -> Backoff {
    Backoff { first: pause, ceiling: pause }
}

/// One repetition, after a pause that a test does not see the end of.
const AT_ONCE: CallPolicy =
    CallPolicy { repeats: 1, backoff: always(Duration::from_secs(3600)), waits: false, turn: Turn::InOrder };
const PATIENT: CallPolicy = CallPolicy { backoff: always(Duration::from_millis(1)), ..AT_ONCE };
const CALL: Duration = Duration::from_millis(3);
const PAUSE: Duration = Duration::from_millis(20);

/// What a scripted server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Refuses,
    LacksTheModel,
    Busy,
    Mistaken,
}

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is in this mood: {self:?}")
    }
}

impl ServerFault for Mood {
    fn effect(&self) -> Effect {
        match self {
            Mood::Refuses => Effect::Unreachable,
            Mood::LacksTheModel => Effect::Unfit,
            Mood::Busy => Effect::Overloaded,
            Mood::Answers | Mood::Mistaken => Effect::Faulty,
        }
    }

    fn again(&self) -> Repeatable {
        if *self == Mood::LacksTheModel { Repeatable::Never } else { Repeatable::Often }
    }

    fn kind(&self) -> &'static str {
        "mood"
    }
}

struct Scripted {
    mood: Mutex<Mood>,
    asked: AtomicUsize,
    probed: AtomicUsize,
}

impl Scripted {
    fn set(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    async fn ask(&self) -> Result<(), Mood> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let before = *lock(&self.mood);
        if before == Mood::Answers {
            tokio::time::sleep(CALL).await;
        }
        // A server that goes away breaks the calls that are under way.
        match *lock(&self.mood) {
            Mood::Answers => Ok(()),
            mood => Err(mood),
        }
    }
}

impl PooledClient for Scripted {
    type Error = Mood;

    fn probe(&self) -> BoxFuture<'_, Result<(), Mood>> {
        self.probed.fetch_add(1, Ordering::Relaxed);
        let mood = *lock(&self.mood);
        async move { if matches!(mood, Mood::Refuses | Mood::LacksTheModel) { Err(mood) } else { Ok(()) } }
            .boxed()
    }
}

fn pool(slots: &[usize]) -> (ServerPool<Scripted>, Vec<Arc<Scripted>>) {
    let member = |(n, slots): (usize, &usize)| Member {
        endpoint: format!("http://server-{n}").into(),
        slots: *slots,
        client: Scripted {
            mood: Mutex::new(Mood::Answers),
            asked: AtomicUsize::default(),
            probed: AtomicUsize::default(),
        },
    };
    let settings = PoolSettings {
        what: "the server",
        pauses: Pauses { unreachable: always(PAUSE), failing: always(PAUSE), unfit: PAUSE },
        count_retry: |_| {},
        count_exhausted: || {},
    };
    let pool = ServerPool::new(slots.iter().enumerate().map(member).collect(), settings);
    let clients = pool.clients().map(|(_, client)| client.clone()).collect();
    (pool, clients)
}

async fn call_with(policy: CallPolicy, pool: &ServerPool<Scripted>) -> Result<(), CallError<Mood>> {
    pool.call(Lane::Bulk, policy, &[], |server, _| async move { server.ask().await }).await
}

async fn call(pool: &ServerPool<Scripted>) -> Result<(), CallError<Mood>> {
    call_with(AT_ONCE, pool).await
}

fn asked(servers: &[Arc<Scripted>]) -> Vec<usize> {
    servers.iter().map(|server| server.asked.swap(0, Ordering::Relaxed)).collect()
}

fn standings(pool: &ServerPool<Scripted>) -> Vec<Standing> {
    pool.servers().iter().map(|server| server.standing).collect()
}

/// Repeats `fact` until it is true; a minute is no expectation of speed.
async fn until(mut fact: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never came true");
}

/// Makes so many calls, as many at once as there are slots; returns how many failed.
async fn load(pool: &ServerPool<Scripted>, calls: usize) -> usize {
    let (left, slots) = (AtomicUsize::new(calls), pool.servers().iter().map(|server| server.slots).sum());
    let take = |left: usize| left.checked_sub(1);
    let worker = async || {
        let mut failed = 0;
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            failed += usize::from(call(pool).await.is_err());
        }
        failed
    };
    join_all((0..slots).map(|_: usize| worker())).await.iter().sum()
}

/// Makes calls until `fact` is true; none may fail.
async fn load_until(pool: &ServerPool<Scripted>, mut fact: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if fact() {
            return;
        }
        assert_eq!(load(pool, 10).await, 0);
    }
    panic!("never came true");
}

#[tokio::test]
async fn a_failed_call_goes_to_another_server_at_once() {
    let (pool, servers) = pool(&[2, 2]);
    for mood in [Mood::Refuses, Mood::Mistaken, Mood::Busy, Mood::LacksTheModel] {
        servers[0].set(mood);
        for _ in 0..3 {
            assert_eq!(call(&pool).await, Ok(()), "{mood:?}");
        }
        assert!(asked(&servers)[0] > 0, "{mood:?}");
        servers[0].set(Mood::Answers);
        load_until(&pool, || standings(&pool) == [Standing::Ready; 2]).await;
        asked(&servers);
    }
}

#[tokio::test]
async fn the_only_server_is_asked_again_after_a_pause_until_it_rests() {
    let (pool, servers) = pool(&[2]);
    servers[0].set(Mood::Refuses);
    for _ in 0..5 {
        let error = CallError::Server { endpoint: "http://server-0".into(), error: Mood::Refuses };
        assert_eq!(call_with(PATIENT, &pool).await, Err(error));
    }
    assert_eq!(asked(&servers), [10]);
    assert_eq!(call(&pool).await, Err(CallError::NoServer), "ten failures in a row");
    assert_eq!((asked(&servers), standings(&pool)), (vec![0], vec![Standing::Resting]));
    let problem = pool.servers()[0].last_failure.clone().unwrap().0;
    assert_eq!(problem, "the server at http://server-0 is in this mood: Refuses");
    // It is probed in the background, and then tried with one call.
    until(|| servers[0].probed.load(Ordering::Relaxed) == 3).await;
    servers[0].set(Mood::Answers);
    until(|| standings(&pool) == [Standing::Trial]).await;
    assert_eq!(asked(&servers), [0], "no call was risked");
    let mut calls = Box::pin(join_all([call(&pool), call(&pool), call(&pool)]));
    assert!(calls.as_mut().now_or_never().is_none());
    assert_eq!(asked(&servers), [1], "the others wait for the first");
    assert_eq!(calls.await, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(standings(&pool), [Standing::Ready]);
    // A call can wait for a server to come back.
    servers[0].set(Mood::Refuses);
    while pool.is_usable() {
        assert!(call_with(PATIENT, &pool).await.is_err());
    }
    let waits = CallPolicy { repeats: 1000, waits: true, ..PATIENT };
    let mut waiting = Box::pin(call_with(waits, &pool));
    assert!(waiting.as_mut().now_or_never().is_none());
    servers[0].set(Mood::Answers);
    assert_eq!(waiting.await, Ok(()));
}

#[tokio::test]
async fn a_server_that_dies_under_load_fails_no_call_and_is_used_again_when_it_is_back() {
    let (pool, servers) = pool(&[10, 10, 10]);
    assert_eq!(load(&pool, 600).await, 0);
    let shares = asked(&servers);
    assert!(shares.iter().all(|share| (150..250).contains(share)), "{shares:?}");
    servers[1].set(Mood::Refuses);
    assert_eq!(load(&pool, 600).await, 0);
    let dead = asked(&servers)[1];
    assert!((3..=13).contains(&dead), "asked {dead} times when it was dead");
    until(|| servers[1].probed.load(Ordering::Relaxed) >= 3).await;
    assert_eq!((load(&pool, 300).await, asked(&servers)[1]), (0, 0));
    servers[1].set(Mood::Answers);
    load_until(&pool, || standings(&pool)[1] == Standing::Ready).await;
    asked(&servers);
    assert_eq!(load(&pool, 600).await, 0);
    let shares = asked(&servers);
    assert!(shares.iter().all(|share| (150..250).contains(share)), "{shares:?}");
    // All of them: the calls fail, and none waits.
    servers.iter().for_each(|server| server.set(Mood::Refuses));
    while pool.is_usable() {
        assert!(call_with(PATIENT, &pool).await.is_err());
    }
    assert_eq!(call(&pool).now_or_never(), Some(Err(CallError::NoServer)));
}

#[tokio::test]
async fn a_server_without_the_model_is_left_out_and_asked_again() {
    let (pool, servers) = pool(&[4, 4]);
    servers[1].set(Mood::LacksTheModel);
    assert_eq!(pool.probe_all().await, [Ok(()), Err(Mood::LacksTheModel)]);
    assert_eq!(standings(&pool), [Standing::Ready, Standing::LeftOut]);
    until(|| servers[1].probed.load(Ordering::Relaxed) >= 3).await;
    assert_eq!((load(&pool, 100).await, asked(&servers)), (0, vec![100, 0]));
    servers[1].set(Mood::Answers);
    load_until(&pool, || standings(&pool)[1] == Standing::Ready).await;
    // An answer of a call says it too.
    servers[1].set(Mood::LacksTheModel);
    load_until(&pool, || standings(&pool)[1] == Standing::LeftOut).await;
    servers[1].set(Mood::Answers);
    load_until(&pool, || standings(&pool)[1] == Standing::Ready).await;
    // The last server is not left out.
    servers.iter().for_each(|server| server.set(Mood::LacksTheModel));
    assert!(pool.probe_all().await.iter().all(Result::is_err) && pool.is_usable());
}

#[tokio::test]
async fn a_call_that_is_given_up_gives_its_place_back() {
    let (pool, servers) = pool(&[1]);
    let mut first = Box::pin(call(&pool));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(call(&pool));
    let mut third = Box::pin(call(&pool));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    assert_eq!((asked(&servers), pool.servers()[0].in_flight), (vec![1], 1));
    // The second has been given the place, and does not know it yet.
    drop(first);
    drop(second);
    assert_eq!(third.await, Ok(()));
    assert_eq!((asked(&servers), pool.servers()[0].in_flight), (vec![1], 0));
}

#[tokio::test]
async fn retries_have_a_budget() {
    let ((pool, servers), began) = (pool(&[4]), Instant::now());
    for _ in 0..200 {
        servers[0].set(Mood::Mistaken);
        assert!(call_with(PATIENT, &pool).await.is_err());
        // It does not rest: it answers a call between two failures.
        servers[0].set(Mood::Answers);
        assert_eq!(call(&pool).await, Ok(()));
    }
    // 14 at once, a tenth of 400 calls, and one a second.
    let (retries, allowed) = (asked(&servers)[0] - 400, 14 + 40);
    let most = allowed + began.elapsed().as_secs_f64() as usize + 1;
    assert!((allowed - 1..=most).contains(&retries), "{retries} retries, {most} allowed");
}
