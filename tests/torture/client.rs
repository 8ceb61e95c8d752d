//! A client: sends its chunks in uploads of every kind, mixed with what clients also send, until each is answered.

use crate::payload::{Piece, bad_line, dice, json_of};
use crate::round_state::RoundState;
use crate::upload::{Mode, Upload, What};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

/// Sends these numbers until each has its answer.
pub async fn ingest(state: &RoundState, name: &str, numbers: Range<u32>) {
    let pieces = numbers.map(Piece::new).collect();
    send_all(state, name, pieces, true).await;
}

/// Sends these pieces until each has its answer; `mixed` with what is no new chunk.
pub async fn send_all(state: &RoundState, name: &str, mut todo: Vec<Piece>, mixed: bool) {
    let mut dice = dice(state.seed, name, 0);
    let mut sent_before = HashSet::new();
    while !todo.is_empty() && !state.has_failed() {
        let upload = compose(state, &mut dice, &todo, mixed);
        let own = upload.lines.iter().filter_map(|(what, _)| match what {
            What::Piece(piece) if todo.contains(piece) => Some(*piece),
            _ => None,
        });
        let own: HashSet<Piece> = own.collect();
        let again = own.iter().filter(|piece| !sent_before.insert(**piece)).count();
        state.count_many("sent again", again as u64);
        let Some(url) = state.service().await else { return };
        let decided: HashSet<Piece> = upload.send(state, &url).await.into_iter().collect();
        let before = todo.len();
        todo.retain(|piece| !decided.contains(piece));
        if todo.len() == before {
            // Nothing came of it: the service is gone, and said to be back soon.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn compose(state: &RoundState, dice: &mut StdRng, todo: &[Piece], mixed: bool) -> Upload {
    let mode = match dice.random_range(0..10) {
        0..6 => Mode::Stream,
        6..8 => Mode::Summary,
        _ => Mode::Json,
    };
    let count = dice.random_range(1..=if mode == Mode::Json { 30 } else { 120 }).min(todo.len());
    let mut lines = Vec::new();
    for piece in &todo[..count] {
        lines.push(line(state, *piece));
        while mixed && dice.random_bool(0.12) {
            lines.extend(aside(state, dice, *piece, mode));
        }
    }
    let packed = dice.random_bool(0.25);
    let pieces = (mode != Mode::Json && dice.random_bool(0.3)).then(|| dice.random_range(200..8_000));
    Upload { lines, mode, packed, pieces }
}

/// A line that is a chunk.
pub fn line(state: &RoundState, piece: Piece) -> (What, String) {
    (What::Piece(piece), json_of(state.seed, piece).to_string())
}

/// Something beside the chunks that are meant: the same again, another's, a conflict, a bad line, nothing.
fn aside(state: &RoundState, dice: &mut StdRng, last: Piece, mode: Mode) -> Option<(What, String)> {
    let recent = state.recent(|count| dice.random_range(0..count));
    match dice.random_range(0..6) {
        0 => Some(line(state, last)),
        1 | 2 => Some(line(state, recent?)),
        3 => {
            let piece = recent.filter(|piece| piece.has_id() && piece.variant == 0)?;
            Some(line(state, piece.conflicting()))
        }
        4 if mode != Mode::Json => {
            let number = dice.random_range(0..1_000_000);
            let (text, code) = bad_line(dice, number);
            Some((What::Bad(code), text))
        }
        _ if mode != Mode::Json => Some((What::Blank, ["", " ", "\r"][dice.random_range(0..3)].to_owned())),
        _ => None,
    }
}
