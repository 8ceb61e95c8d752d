//! Servers that do the same work: language models, or embedding servers.
//!
//! A [`ServerPool`] has the client of each server with its slots. A call goes to the server with the fewest calls in flight
//! for its limit; calls that find no room wait in line. Each server has a breaker, and a limiter that finds how many
//! calls at once it works on. A call that fails goes to another server at once, within a budget of retries. A server
//! that cannot be used is probed in the background; one that has not the model is left out, not the pool.

mod breaker;
mod call;
mod dispatch;
mod limiter;
mod pool;
mod retry_budget;
mod status;
mod window;

pub use breaker::{Effect, Pauses, Standing};
pub use call::{CallError, CallPolicy};
pub use dispatch::Turn;
pub use pool::{Member, PoolSettings, PooledClient, Repeatable, ServerFault, ServerPool};
pub use status::ServerStatus;
