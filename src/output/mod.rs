//! What a person reads: lines on the terminal and events in the log.
//!
//! Both quote texts of other people: of clients, of files, of servers. So everything is escaped on its way out, in the
//! functions that print ([`print_line`] and its neighbours) and in the formatter of the log ([`EscapedFields`]), and
//! not where a sentence is made. [`throttled`] is for events that one client can cause at will. A leaf: imports no
//! other module of the service.

mod escape;
mod fields;
mod print;
mod throttle;

pub use escape::{LONGEST_LINE, escape, escape_json, escape_lines};
pub use fields::EscapedFields;
pub use print::{
    print_block, print_error_block, print_error_line, print_foreign_json, print_json, print_line,
    terminal_width,
};
pub(crate) use throttle::throttled;
pub use throttle::{INTERVAL, Suppressed, Throttle, message, report_suppressed};
