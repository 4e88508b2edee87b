//! Showing how far long work has come, and ending it on a signal.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use block_io::operations::OperationError;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What shells know as "ended by Ctrl-C".
const INTERRUPTED: u8 = 130;
const BAR: &str = "{wide_bar} {percent:>3}%  {bytes_per_sec}  {eta} left";

/// Shows progress on standard error.
pub(crate) struct Display {
    interrupted: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    /// Whether lines are printed, and the last tenth that was.
    lines: bool,
    tenth: u64,
}

impl Display {
    /// A bar on a terminal, lines elsewhere if they are `wanted`, nothing if it is to be `quiet`. From now on signals that
    /// would end the process end the work instead.
    pub(crate) fn new(wanted: bool, quiet: bool) -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .context("cannot wait for signals")?;
        }
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| ProgressBar::new(0));
        if let Some(bar) = &bar {
            bar.set_style(ProgressStyle::with_template(BAR).context("cannot show the progress")?);
        }
        Ok(Self { interrupted, bar, lines: wanted && !terminal && !quiet, tenth: 0 })
    }

    /// To be called by the work; breaks once a signal has come.
    pub(crate) fn update(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        let tenth = u64::try_from(u128::from(done) * 10 / u128::from(total.max(1))).unwrap_or(10);
        if self.lines && tenth > self.tenth {
            eprintln!("{}% done", tenth * 10);
            self.tenth = tenth;
        }
        if self.interrupted.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The exit code of work that a signal has ended; other errors stay errors.
pub(crate) fn interrupted(error: OperationError, what: &str) -> anyhow::Result<ExitCode> {
    if matches!(error, OperationError::Interrupted) {
        eprintln!("vireo image: {what}");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Err(error.into())
}
