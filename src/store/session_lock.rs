//! Tells whether a connection has a server session of its own, or a pooler lends it one for each transaction.
//!
//! Nothing is asked about names and versions: what counts is whether the state of a session belongs to its connection.
//! A first connection takes an advisory lock of the session, with a random number that nothing else uses. With a session
//! of its own, its next transaction finds the lock in the same session, and the lock ends with the connection.
//!
//! A pooler that lends sessions has two choices after each transaction. If it clears the session, the next transaction
//! misses the lock. If it does not, the lock stays when the connection is closed, because the session then belongs to no
//! connection that could end it; a second connection still finds it. So it does not matter which session the pooler
//! hands out, and one that hands out the same session as long as it is idle is found, too. A pooler that gives each
//! client a session of its own clears or ends that session with the client, and passes.

use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// How long a session may take to end after its connection was closed. Usually it has ended before the second one is
/// open.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
/// The first pause between two looks; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// An advisory lock of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionLock {
    key: i64,
}

/// Which session has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldBy {
    This,
    Another,
    None,
}

impl SessionLock {
    pub fn new() -> SessionLock {
        SessionLock { key: rand::random() }
    }

    /// Takes the lock, and says whether the next transaction of the connection has it.
    pub async fn take(self, first: &Client) -> Result<bool, Error> {
        // Two queries, and so two transactions.
        first.simple_query(&format!("SELECT pg_advisory_lock({})", self.key)).await?;
        Ok(self.holder(first).await? == HeldBy::This)
    }

    /// Says whether the session of the first connection, which was closed, has ended.
    pub async fn has_ended(self, second: &Client) -> Result<bool, Error> {
        let deadline = Instant::now() + ENDED_WITHIN;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.holder(second).await? {
                HeldBy::None => return Ok(true),
                HeldBy::This => {
                    self.release(second).await?;
                    return Ok(false);
                }
                HeldBy::Another if Instant::now() < deadline => {
                    sleep(pause).await;
                    pause *= 2;
                }
                HeldBy::Another => return Ok(false),
            }
        }
    }

    async fn holder(self, client: &Client) -> Result<HeldBy, Error> {
        let answer = client.simple_query(&format!("SELECT {}", self.held_here())).await?;
        let held_here = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(match held_here {
            Some("t") => HeldBy::This,
            Some(_) => HeldBy::Another,
            None => HeldBy::None,
        })
    }

    /// A lock that stayed in a session of a pooler blocks nothing; still, it is released where it is met.
    async fn release(self, client: &Client) -> Result<(), Error> {
        let release = format!("SELECT pg_advisory_unlock({}) WHERE ({})", self.key, self.held_here());
        client.simple_query(&release).await.map(drop)
    }

    /// An SQL query for whether the lock is of the session that runs it; null where no session has it.
    fn held_here(self) -> String {
        // The halves of the number, as PostgreSQL keeps them.
        let (high, low) = ((self.key as u64 >> 32) as u32, self.key as u32);
        format!(
            "(SELECT pid = pg_backend_pid() FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND classid = {high} AND objid = {low} AND objsubid = 1 LIMIT 1)"
        )
    }
}
