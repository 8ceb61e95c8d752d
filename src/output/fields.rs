//! The formatter of the log's fields: message and values of an event, and the fields of its spans.

use super::escape::escape;
use std::fmt;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormattedFields;
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields, Writer};

/// Formats fields as `tracing-subscriber` does by default, without colours, and escapes them: an event is one line,
/// whatever it quotes.
#[derive(Debug, Clone, Copy, Default)]
pub struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut plain = FormattedFields::<DefaultFields>::new(String::new());
        DefaultFields::new().format_fields(plain.as_writer(), fields)?;
        writer.write_str(&escape(&plain.fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_without_commands_for_a_terminal_wherever_they_come_from() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).fmt_fields(EscapedFields);
        let log = log.with_writer(move || writer.clone()).finish();
        let bad = "\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\r\nERROR forged";
        tracing::subscriber::with_default(log, || {
            let span = tracing::info_span!("chunk", id = bad);
            let _entered = span.enter();
            tracing::warn!(error = %bad, debug = ?bad, text = bad, "{bad}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert!(text.contains("ERROR forged") && text.contains("\\r\\n"), "{text}");
    }
}
