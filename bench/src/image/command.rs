//! One run of a program: how long it took, and the most memory that it had.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) time: Duration,
    pub(super) peak_kib: u64,
}

/// Which time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// From before the execution until the process has ended.
    Process,
    /// What the program prints: `Run completed in 0.123 seconds.`
    Printed,
}

/// Executes a command, which has to succeed.
pub(super) fn measure(words: &[String], clock: Clock) -> Result<Measured> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("executing {program}"))?;
    let mut output = String::new();
    let mut errors = String::new();
    // Both are short: neither fills a pipe while the other is read.
    child.stdout.take().context("its output")?.read_to_string(&mut output)?;
    child.stderr.take().context("its errors")?.read_to_string(&mut errors)?;
    let (success, peak_kib) = wait(child.id())?;
    let time = start.elapsed();
    if !success {
        bail!("{} failed: {errors}", words.join(" "));
    }
    let time = match clock {
        Clock::Process => time,
        Clock::Printed => printed(&output).with_context(|| format!("{}: {output}", words.join(" ")))?,
    };
    Ok(Measured { time, peak_kib })
}

fn printed(output: &str) -> Option<Duration> {
    let seconds = output.split_once("Run completed in ")?.1.split_once(" seconds")?.0;
    Some(Duration::from_secs_f64(seconds.parse().ok()?))
}

/// Waits for a child; whether it succeeded, and the most that it had resident.
#[expect(unsafe_code, reason = "wait4(2), which tells what a child has used")]
fn wait(child: u32) -> Result<(bool, u64)> {
    let pid = libc::pid_t::try_from(child).context("a process number")?;
    let mut status = 0;
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to variables that live across the call.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if waited == pid {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("waiting for a program");
        }
    }
    let success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    Ok((success, u64::try_from(usage.ru_maxrss).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_programs_time_is_read_from_what_it_prints() {
        let script = "echo Sending 5; echo 'Run completed in 1.250 seconds.'";
        let measured = measure(&words(&["sh", "-c", script]), Clock::Printed).unwrap();
        assert_eq!(measured.time, Duration::from_millis(1250));
        assert!(measured.peak_kib > 100, "{measured:?}");
        assert!(measure(&words(&["true"]), Clock::Printed).is_err());
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let error = measure(&words(&["sh", "-c", "echo no room >&2; exit 3"]), Clock::Process).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }
}
