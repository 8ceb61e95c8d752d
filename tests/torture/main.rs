//! The torture program: rounds of uploads during which the service, its database and its clients are killed, stopped
//! and broken, and a judge that reads PostgreSQL and LMDB and asks the service nothing.
//!
//! One executable in several roles, each a process: `service` (the whole service), `oracle` (what was issued and what
//! was acknowledged), `judge`, and the driver, which plays the clients and the faults. One seed drives everything and
//! is printed with each failure. `cargo test --test torture -- --rounds 200 --seed 7` runs as many rounds as one likes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test prints its figures")]

mod attack;
mod client;
mod cluster;
mod dead_letters;
mod disk;
mod driver;
mod fault;
mod hostile;
mod items;
mod judge;
mod oracle;
mod payload;
#[allow(dead_code)]
#[path = "../it/support/postgres.rs"]
mod postgres;
mod proof;
mod proxy;
mod round;
mod round_state;
mod scene;
mod service;
mod test_service;
mod upload;
#[allow(dead_code)]
#[path = "../it/support/wire.rs"]
mod wire;

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["role:service", settings] => return service::run(settings),
        ["role:oracle", folder] => oracle::run(folder),
        ["role:judge", case] => return judge::run(case),
        _ => return driver::run(&arguments),
    }
    ExitCode::SUCCESS
}

/// Ends this process when the driver has ended, however that came.
fn follow_the_driver() {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(3);
    });
}
