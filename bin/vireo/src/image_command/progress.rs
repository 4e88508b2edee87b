//! Showing how far long work has come, and ending it on a signal.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::qemu_img::{called_as_qemu_img, program};
use crate::output::print;
use anyhow::Context;
use block_io::operations::OperationError;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What shells know as "ended by Ctrl-C".
const INTERRUPTED: u8 = 130;
const BAR: &str = "{wide_bar} {percent:>3}%  {bytes_per_sec}  {eta} left";

/// Shows progress on standard error; as qemu-img, on standard output.
pub(crate) struct Display {
    interrupted: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    /// Whether lines are printed, and the last part that was: tenths, or hundredths of percents as qemu-img.
    lines: bool,
    qemu_img: bool,
    shown: Option<u64>,
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
        let qemu_img = called_as_qemu_img();
        let terminal = std::io::stderr().is_terminal() && !qemu_img;
        let bar = (terminal && !quiet).then(|| ProgressBar::new(0));
        if let Some(bar) = &bar {
            bar.set_style(ProgressStyle::with_template(BAR).context("cannot show the progress")?);
        }
        Ok(Self { interrupted, bar, lines: wanted && !terminal && !quiet, qemu_img, shown: None })
    }

    /// To be called by the work; breaks once a signal has come.
    pub(crate) fn update(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        if self.lines {
            self.line(done, total);
        }
        if self.interrupted.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Display {
    fn line(&mut self, done: u64, total: u64) {
        let parts = |of: u128| u64::try_from(u128::from(done) * of / u128::from(total.max(1))).unwrap_or(0);
        if self.qemu_img {
            // What programs that call qemu-img -p look for.
            let part = parts(10_000);
            if self.shown != Some(part) {
                let text = format!("    ({}.{:02}/100%)\r", part / 100, part % 100);
                // Nobody has to read it.
                let _ = print(&text);
                self.shown = Some(part);
            }
        } else if parts(10) > self.shown.unwrap_or(0) {
            eprintln!("{}% done", parts(10) * 10);
            self.shown = Some(parts(10));
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.lines && self.qemu_img {
            let _ = print("\n");
        }
    }
}

/// The exit code of work that a signal has ended; other errors stay errors.
pub(crate) fn interrupted(error: OperationError, what: &str) -> anyhow::Result<ExitCode> {
    if matches!(error, OperationError::Interrupted) {
        eprintln!("{}: {what}", program());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Err(error.into())
}
