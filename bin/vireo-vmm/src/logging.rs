//! Where the VMM's own messages go: standard error, or a file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};
use tracing_subscriber::fmt;

use crate::arguments::UsageError;

/// Sends messages up to a level to `file` (appended, made with mode 0600), or to standard error. `verbosity`: how often
/// `-v` was given.
///
/// One maximum level and no filter expressions: those cost more than the rest of the start.
pub(crate) fn start(verbosity: u8, file: Option<&Path>) -> Result<(), UsageError> {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let uptime = fmt::time::uptime();
    let file = file
        .map(|path| {
            let options = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            options.map_err(|error| UsageError::LogFile { path: path.to_owned(), error })
        })
        .transpose()?;
    let make = move || -> Made {
        let subscriber = fmt().with_max_level(level).with_target(false).with_timer(uptime).with_ansi(false);
        match file {
            None => Box::new(subscriber.with_writer(std::io::stderr).finish()),
            Some(file) => Box::new(subscriber.with_writer(Mutex::new(file)).finish()),
        }
    };
    let subscriber = FirstMessage { level, real: LazyLock::new(Box::new(make)) };
    // Fails when it is called twice, which `main` does not.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

type Made = Box<dyn Subscriber + Send + Sync>;

/// Makes the real subscriber for the first message: most machines start without one, and the guest need not wait for the
/// subscriber's tables.
struct FirstMessage {
    level: LevelFilter,
    real: LazyLock<Made, Box<dyn FnOnce() -> Made + Send>>,
}

impl Subscriber for FirstMessage {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.real.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.real.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.real.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.real.event(event);
    }

    fn enter(&self, span: &Id) {
        self.real.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.real.exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.real.clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.real.try_close(span)
    }
}
