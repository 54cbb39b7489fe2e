//! The daemon's log: lines on stderr, as the journal reads them, and never a flood of them.

use std::{
    collections::HashMap,
    fmt::{Debug, Write as _},
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::{config::value::LogLevel, text::visible};

/// Lines of one place in the program that may come in a [`WINDOW`].
const LINES: u32 = 10;
/// Time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Changes how much is logged.
#[derive(Clone, Debug)]
pub struct Volume(reload::Handle<LevelFilter, Registry>);

impl Volume {
    /// From now on.
    pub fn set(&self, level: LogLevel) {
        // It fails only without a log, and then nothing matters.
        let _ = self.0.reload(level.filter());
    }
}

/// Begins to log to stderr. The kernel programs' own lines come here too.
pub fn begin(level: LogLevel) -> Volume {
    let (filter, handle) = reload::Layer::new(level.filter());
    let lines = Lines::new(io::stderr(), is_journal());
    // A second log would be a fault of main's; the first one goes on.
    let _ = Registry::default().with(filter).with(lines).try_init();
    Volume(handle)
}

/// Whether stderr is the journal: systemd says which file it connected (`$JOURNAL_STREAM`,
/// systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else { return false };
    let identity = format!("{}:{}", stat.st_dev, stat.st_ino);
    !io::stderr().is_terminal() && std::env::var("JOURNAL_STREAM").is_ok_and(|of| of == identity)
}

/// Writes one line an event.
struct Lines<W> {
    out: Mutex<W>,
    /// Whether the reader adds the time and reads a priority in front.
    journal: bool,
    limiter: Mutex<HashMap<Identifier, Quota>>,
}

/// What one place in the program has logged of late.
#[derive(Debug)]
struct Quota {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl<W> Lines<W> {
    fn new(out: W, journal: bool) -> Self {
        Self { out: Mutex::new(out), journal, limiter: Mutex::default() }
    }

    /// Whether a line may be written, and how many like it were not since the last one.
    fn admit(&self, place: Identifier, now: Instant) -> Option<u64> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = limiter.entry(place).or_insert(Quota { begun: now, lines: 0, left_out: 0 });
        if now.duration_since(quota.begun) >= WINDOW {
            (quota.begun, quota.lines) = (now, 0);
        }
        if quota.lines == LINES {
            quota.left_out += 1;
            return None;
        }
        quota.lines += 1;
        Some(std::mem::take(&mut quota.left_out))
    }
}

impl<W: Write + Send + 'static, S: Subscriber> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let Some(left_out) = self.admit(metadata.callsite(), Instant::now()) else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let level = *metadata.level();
        let mut line = if self.journal {
            format!("<{}>", priority(level))
        } else {
            let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
            format!("{now} {level:>5} ")
        };
        line.push_str(&text.message);
        line.push_str(&text.fields);
        if left_out > 0 {
            line.push_str(&format!(" ({left_out} such lines left out)"));
        }
        // The journal takes every line for an entry of its own.
        let line = line.replace('\n', "; ");
        let line = visible(&line);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody to tell if this fails.
        let _ = writeln!(out, "{line}");
    }
}

/// The level as syslog(3) numbers it.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// An event in words.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // Of the log crate's records; where they come from is of no use to an operator.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(journal: bool, job: impl FnOnce()) -> Vec<String> {
        let kept = Kept::default();
        let lines = Lines::new(kept.clone(), journal);
        tracing::subscriber::with_default(Registry::default().with(lines), job);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_journal_gets_a_priority_and_one_line_an_event() {
        let lines = logged(true, || {
            tracing::info!(peers = 3, "the history goes on");
            tracing::error!("one\ntwo");
            tracing::warn!(path = %"/x", "careful");
        });
        assert_eq!(lines, ["<6>the history goes on peers=3", "<3>one; two", "<4>careful path=/x"]);
    }

    #[test]
    fn elsewhere_lines_begin_with_time_and_level() {
        let lines = logged(false, || tracing::warn!("careful"));
        assert!(lines[0].ends_with("Z  WARN careful"), "{lines:?}");
    }

    #[test]
    fn one_place_cannot_flood_the_log_and_what_is_left_out_is_counted() {
        let lines = logged(true, || {
            for n in 0..100 {
                tracing::info!(n, "again");
            }
            tracing::info!("another place");
        });
        assert_eq!(lines.len(), LINES as usize + 1);
        let limiter = Lines::new(Vec::<u8>::new(), true);
        let place = {
            struct Nowhere;
            impl tracing::callsite::Callsite for Nowhere {
                fn set_interest(&self, _: tracing::subscriber::Interest) {}
                fn metadata(&self) -> &tracing::Metadata<'_> {
                    unreachable!("nobody asks")
                }
            }
            static NOWHERE: Nowhere = Nowhere;
            Identifier(&NOWHERE)
        };
        let start = Instant::now();
        let admitted = (0..50).filter_map(|_| limiter.admit(place.clone(), start)).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(limiter.admit(place, start + WINDOW), Some(40));
    }
}
