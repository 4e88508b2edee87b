//! What the user sees on standard error while the lab works: progress lines, and with -v timing lines.

use std::fmt::Display;
use std::time::Instant;

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Progress of slow steps and errors.
    Normal,
    /// Also when each step of a run was done.
    Timings,
}

/// Writes lines to standard error.
#[derive(Debug)]
pub struct Report {
    verbosity: Verbosity,
    start: Instant,
}

impl Report {
    /// Time counts from here.
    #[must_use]
    pub fn new(verbosity: Verbosity) -> Report {
        Report { verbosity, start: Instant::now() }
    }

    /// Whether timing lines are shown.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// A line that always shows.
    pub fn say(&self, line: impl Display) {
        eprintln!("lab: {line}");
    }

    /// A line that shows with [`Verbosity::Timings`] only, with the seconds since the start.
    pub fn detail(&self, line: impl Display) {
        if self.verbosity == Verbosity::Timings {
            eprintln!("lab: [{:6.2} s] {line}", self.start.elapsed().as_secs_f64());
        }
    }
}
