//! Where the VMM's own messages go: standard error, or a file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
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
    let subscriber = fmt().with_max_level(level).with_target(false).with_timer(fmt::time::uptime());
    match file {
        None => subscriber.with_ansi(false).with_writer(std::io::stderr).init(),
        Some(path) => {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| UsageError::LogFile { path: path.to_owned(), error })?;
            subscriber.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
    }
    Ok(())
}
