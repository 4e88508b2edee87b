//! Start-up time: from before a program is executed until the guest's first serial byte is here, and until it has exited.
//!
//! The guest is [`crate::tiny_kernel`], whose first instructions write that byte, so what is measured is the program and the
//! host's KVM. Programs run alternately, one at a time; every number of one is compared with the first one's of the
//! same round.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use crate::contender::{Contender, Job};
use crate::sample::{Summary, paired_ratio, summarise};
use crate::tiny_kernel::GREETING;

/// How long a program may take until the guest's byte, and then until its exit.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is reported of one program.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The contender's name.
    pub name: String,
    /// What was executed.
    pub command: Vec<String>,
    /// Until the guest's first byte arrived, in microseconds.
    pub first_byte_us: Summary,
    /// How much longer that took than the first contender, paired by rounds.
    pub first_byte_ratio: f64,
    /// From the guest's first byte until the program had exited; `None` for programs that had to be killed.
    pub exit_us: Option<Summary>,
}

/// One run of a program.
#[derive(Debug, Clone, Copy)]
struct Run {
    first_byte: Duration,
    exit: Option<Duration>,
}

/// Whether programs are waited for after the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The guest ends and takes the program with it.
    Exits,
    /// The guest goes on for ever: the program is killed.
    Kill,
}

/// Runs every contender `rounds` times, alternately, after one round that is not counted.
pub fn compare(contenders: &[Contender], job: &Job, rounds: usize, after: After) -> Result<Vec<Outcome>> {
    let commands =
        contenders.iter().map(|contender| contender.command_for(job)).collect::<Result<Vec<_>>>()?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (contender, command) in commands.iter().enumerate() {
            let Contender { name, reboots, .. } = &contenders[contender];
            let after = if *reboots { After::Kill } else { after };
            let run = run(command, after).with_context(|| name.clone())?;
            if round > 0 {
                runs[contender].push(run);
            }
        }
    }
    let firsts: Vec<Vec<Duration>> =
        runs.iter().map(|runs| runs.iter().map(|run| run.first_byte).collect()).collect();
    let outcomes = contenders.iter().zip(commands).enumerate().map(|(index, (contender, command))| {
        let exits: Vec<Duration> = runs[index].iter().filter_map(|run| run.exit).collect();
        Ok(Outcome {
            name: contender.name.clone(),
            command,
            first_byte_us: summarise(&firsts[index]).context("no rounds")?,
            first_byte_ratio: paired_ratio(&firsts[index], &firsts[0]).context("no rounds")?,
            exit_us: summarise(&exits),
        })
    });
    outcomes.collect()
}

/// A child that is killed unless it has been waited for.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It has exited already, or is to go: there is nothing to do about a failure.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &[String], after: After) -> Result<Run> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut errors = tempfile::tempfile().context("a file for error output")?;
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    let mut prepared = Command::new(program);
    prepared.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors.try_clone()?);
    let start = Instant::now();
    let mut child = Reaped(prepared.spawn().with_context(|| format!("executing {program}"))?);
    // Its copy of the pipe's other end would hide the child's exit.
    drop(prepared);
    let mut reader = File::from(OwnedFd::from(reader));
    if !greeting(&mut reader, start)? {
        let mut text = String::new();
        errors.rewind()?;
        errors.take(4096).read_to_string(&mut text)?;
        bail!("the guest did not greet: {}\n{text}", command.join(" "));
    }
    let first_byte = start.elapsed();
    let exit = match after {
        After::Kill => None,
        After::Exits => {
            end_of_file(&mut reader, Instant::now())?;
            child.0.wait()?;
            Some(start.elapsed() - first_byte)
        }
    };
    Ok(Run { first_byte, exit })
}

/// Waits for the guest's byte, whatever a firmware prints before; false if the output ended or nothing came in time.
fn greeting(reader: &mut File, start: Instant) -> Result<bool> {
    let mut buffer = [0; 512];
    while wait(reader, start)? {
        let got = reader.read(&mut buffer)?;
        if got == 0 {
            return Ok(false);
        }
        if buffer[..got].contains(&GREETING) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn end_of_file(reader: &mut File, start: Instant) -> Result<()> {
    let mut buffer = [0; 512];
    while wait(reader, start)? {
        if reader.read(&mut buffer)? == 0 {
            return Ok(());
        }
    }
    bail!("the program did not end {} s after the guest's greeting", PATIENCE.as_secs())
}

/// Waits until there is something to read; false if patience ended.
fn wait(reader: &File, start: Instant) -> Result<bool> {
    let left = PATIENCE.saturating_sub(start.elapsed());
    let timeout = rustix::event::Timespec::try_from(left)?;
    let mut ready = [PollFd::new(reader, PollFlags::IN)];
    Ok(poll(&mut ready, Some(&timeout))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Contender {
        let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
        Contender { name: name.into(), command, reboots: false }
    }

    fn job() -> (tempfile::TempDir, Job) {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { kernel: "/k".into(), memory: 64, folder: folder.path().to_owned() };
        (folder, job)
    }

    #[test]
    fn programs_are_compared_with_the_first_one() {
        let (_folder, job) = job();
        let contenders = [shell("quick", "printf '\\026'"), shell("slow", "sleep 0.05; printf 'V\\026'")];
        let outcomes = compare(&contenders, &job, 3, After::Exits).unwrap();
        assert_eq!(outcomes[0].first_byte_ratio, 1.0);
        assert!(outcomes[1].first_byte_ratio > 1.0);
        assert!(outcomes[1].first_byte_us.minimum >= 50_000.0);
        assert!(outcomes[0].exit_us.is_some());
    }

    #[test]
    fn a_program_that_reboots_its_guest_is_not_waited_for() {
        let (_folder, job) = job();
        let reboots = Contender { reboots: true, ..shell("reboots", "printf '\\026'; exec sleep 1000") };
        assert_eq!(compare(&[reboots], &job, 1, After::Exits).unwrap()[0].exit_us, None);
    }

    #[test]
    fn a_program_that_goes_on_is_killed_after_the_greeting() {
        let (_folder, job) = job();
        let outcomes =
            compare(&[shell("endless", "printf '\\026'; exec sleep 1000")], &job, 1, After::Kill).unwrap();
        assert_eq!(outcomes[0].exit_us, None);
    }

    #[test]
    fn a_program_that_does_not_greet_is_reported_with_its_error_output() {
        let (_folder, job) = job();
        let error =
            compare(&[shell("broken", "echo no such kernel >&2")], &job, 1, After::Exits).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("broken") && text.contains("no such kernel"), "{text}");
    }
}
