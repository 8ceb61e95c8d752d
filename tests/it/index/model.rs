//! Any sequence of commits, builds and restarts leaves the index equal to the committed rows.

use super::truth::{DIMS, Mood, Truth, assert_equal, nearest, options, tell, tell_without_room};
use lnsp_ingest::index::{Commit, Effort, Index, IndexOptions, RebuildReason};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Step {
    Insert(usize),
    Replace(Vec<prop::sample::Index>),
    Delete(Vec<prop::sample::Index>),
    Hole(i64),
    /// The next commits come to the index late, after one more.
    Delay,
    /// The next commit does not come to the index.
    Elsewhere,
    Flush,
    FailingFlush,
    Look,
    Rebuild,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(any::<prop::sample::Index>(), 1..6);
    prop_oneof![
        4 => (1usize..40).prop_map(Step::Insert),
        2 => some().prop_map(Step::Replace),
        3 => some().prop_map(Step::Delete),
        1 => (1i64..5).prop_map(Step::Hole),
        1 => Just(Step::Delay),
        1 => Just(Step::Elsewhere),
        3 => Just(Step::Flush),
        1 => Just(Step::FailingFlush),
        1 => Just(Step::Look),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Reopen),
    ]
}

struct World {
    truth: Arc<Truth>,
    index: Option<Index>,
    options: IndexOptions,
    late: Vec<Commit>,
    delay: bool,
    elsewhere: bool,
}

impl World {
    fn new(dir: &Path) -> World {
        let mut options = options(dir);
        options.trees = 3;
        // Some sequences get there, and some go back.
        options.trees_from = 40;
        options.policy.slots = 60;
        options.policy.page = 7;
        options.policy.increment = 20;
        let mut world = World {
            truth: Truth::new(),
            index: None,
            options,
            late: Vec::new(),
            delay: false,
            elsewhere: false,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        self.index = None;
        self.index = Some(Index::open(self.options.clone(), self.truth.clone()).unwrap());
        self.late.clear();
    }

    fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    fn chosen(&self, picks: &[prop::sample::Index]) -> Vec<u32> {
        let items = self.truth.items();
        let mut chosen: Vec<u32> =
            picks.iter().filter(|_| !items.is_empty()).map(|pick| *pick.get(&items)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    async fn hear(&mut self, commit: Commit) {
        if std::mem::take(&mut self.elsewhere) {
            return;
        }
        if std::mem::take(&mut self.delay) {
            self.late.push(commit);
            return;
        }
        // Some come with room and some without, as when builds fail.
        if commit.upto % 3 == 0 {
            tell_without_room(self.index(), commit);
        } else {
            tell(self.index(), commit).await;
        }
        for late in std::mem::take(&mut self.late) {
            tell_without_room(self.index(), late);
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Insert(count) => self.hear(self.truth.insert(count)).await,
            Step::Replace(picks) => self.hear(self.truth.replace(&self.chosen(&picks))).await,
            Step::Delete(picks) => self.hear(self.truth.delete(&self.chosen(&picks))).await,
            Step::Hole(width) => self.hear(self.truth.hole(width)).await,
            Step::Delay => self.delay = true,
            Step::Elsewhere => self.elsewhere = true,
            Step::Flush => self.index().flush().await.unwrap(),
            Step::FailingFlush => {
                self.truth.mood(Mood::Fails);
                // Without a gap it needs no source, and succeeds.
                let _either_way = self.index().flush().await;
                self.truth.mood(Mood::Answers);
            }
            Step::Look => self.index().poll_source(),
            Step::Rebuild => self.index().rebuild(RebuildReason::Manual).await.unwrap(),
            Step::Reopen => self.open(),
        }
        self.check();
    }

    /// What a search says it reflects, it reflects.
    fn check(&self) {
        let status = self.index().status();
        assert!(status.built_seq <= status.applied_seq && status.applied_seq <= self.truth.clock());
        let items = self.index().items();
        assert!(self.truth.items_upto(status.applied_seq).iter().all(|item| items.contains(*item)));
        if status.applied_seq == self.truth.clock() {
            assert_equal(self.index(), &self.truth);
            let found = nearest(self.index(), &[1.0; DIMS], 1_000, Effort::Normal);
            assert_eq!(found.hits.len(), self.truth.items().len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_way_leads_to_the_committed_rows(steps in prop::collection::vec(step(), 1..30)) {
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(home.path());
            for step in steps {
                world.take(step).await;
            }
            world.index().wait_for(world.truth.clock()).await.unwrap();
            world.index().flush().await.unwrap();
            world.check();
            assert_eq!(world.index().status().delta_len, 0);
            world.open();
            assert_eq!(world.index().status().last_rebuild, None);
            world.check();
        });
    }
}
