//! Panics that are expected, and the report of all others.

use super::worker::panic_message;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};

thread_local! {
    /// This thread runs code whose panics are an answer.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of a library that panics on some inputs. A panic becomes an error with its message; [`report_panics`] does
/// not report it.
///
/// # Errors
/// The message of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    result.map_err(|payload| panic_message(&*payload))
}

/// From now on `report` gets a line for each panic of this process that is not expected, and a line for each frame of
/// the backtrace if `RUST_BACKTRACE` asks for one. Without this call the standard library prints the message as it is.
pub fn report_panics(report: impl Fn(&str) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panic| {
        if EXPECTED.get() {
            return;
        }
        let thread = std::thread::current();
        let (name, message) = (thread.name().unwrap_or("<unnamed>"), panic_message(panic.payload()));
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        report(&format!("thread '{name}' panicked{place}: {message}"));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(&report);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_panic_is_an_error_with_its_message() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        assert_eq!(catch_panic(|| panic!("on {}", "purpose")), Err::<(), _>("on purpose".to_owned()));
        let inner = || {
            drop(catch_panic(|| panic!("inside")));
            assert!(EXPECTED.get(), "the outer one still holds");
        };
        catch_panic(inner).unwrap();
        assert!(!EXPECTED.get());
    }
}
