//! The index against a scripted source of truth: whatever happens, it equals the committed rows.

mod crash;
mod damage;
mod follow;
mod history;
mod limits;
mod model;
mod recall;
mod truth;
mod verify;
