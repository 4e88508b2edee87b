//! How long a guest takes to say something: from before its program is executed until the words are here.
//!
//! With [`crate::tiny_kernel`], whose first instructions say [`crate::tiny_kernel::GREETING`], that is the start of the
//! program and of KVM; with a distribution's kernel it is a boot. Programs run alternately, one at a time.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::contender::Contender;
use crate::job::Job;
use crate::process::Running;
use crate::report::Excluded;
use crate::sample::{Summary, paired_ratio, summarise};

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    /// What the guest says.
    pub words: &'a [u8],
    /// How long a program may take until then, and how long for its exit.
    pub patience: Duration,
    /// The guest ends by itself then, and its program is waited for.
    pub ends: bool,
    /// A program whose first run took longer than this takes part in [`FEW_ROUNDS`] only: it is out of the race.
    pub long: Duration,
}

/// Rounds of programs that take long.
pub const FEW_ROUNDS: usize = 3;

/// What is reported of one program.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The contender's name.
    pub name: String,
    /// What was executed.
    pub command: Vec<String>,
    /// Until the guest was heard, in microseconds.
    pub heard_us: Summary,
    /// How long ours took for each unit of time of this one, the median over rounds. `None` if ours did not take part.
    pub ours_ratio: Option<f64>,
    /// From then until the program had exited; `None` for programs that had to be killed.
    pub exit_us: Option<Summary>,
}

/// One program's results so far.
struct Entry<'a> {
    contender: &'a Contender,
    command: Vec<String>,
    /// Rounds that it takes part in.
    rounds: usize,
    heard: Vec<Duration>,
    exits: Vec<Duration>,
}

impl Entry<'_> {
    fn run(&mut self, goal: Goal<'_>) -> Result<()> {
        let running = Running::until(&self.command, goal.words, goal.patience)?;
        self.heard.push(running.heard);
        if goal.ends && !self.contender.reboots() {
            self.exits.push(running.exit(goal.patience)?);
        }
        Ok(())
    }
}

/// Runs every contender `rounds` times, alternately, after one round that is not counted and after which those that can't
/// do it are left out. An error if ours is one of them.
pub fn compare(
    contenders: &[Contender],
    job: &Job,
    rounds: usize,
    goal: Goal<'_>,
) -> Result<(Vec<Outcome>, Vec<Excluded>)> {
    let mut entries = Vec::new();
    let mut excluded = Vec::new();
    for contender in contenders {
        let command = contender.command_for(job)?;
        let mut entry = Entry { contender, command, rounds, heard: Vec::new(), exits: Vec::new() };
        match entry.run(goal) {
            Ok(()) => {
                let long = entry.heard.iter().any(|heard| *heard > goal.long);
                let rounds = if long { rounds.min(FEW_ROUNDS) } else { rounds };
                entries.push(Entry { rounds, heard: Vec::new(), exits: Vec::new(), ..entry });
            }
            Err(error) => excluded.push(Excluded::new(contender, error)?),
        }
    }
    for round in 1..=rounds {
        for entry in entries.iter_mut().filter(|entry| entry.rounds >= round) {
            entry.run(goal)?;
        }
        if goal.patience >= SLOW {
            eprintln!("round {round} of {rounds} done");
        }
    }
    let ours = entries.iter().find(|entry| entry.contender.name == Contender::OURS);
    let outcome = |entry: &Entry<'_>| {
        Some(Outcome {
            name: entry.contender.name.clone(),
            command: entry.command.clone(),
            heard_us: summarise(&entry.heard)?,
            ours_ratio: ours.and_then(|ours| paired_ratio(&ours.heard, &entry.heard)),
            exit_us: summarise(&entry.exits),
        })
    };
    Ok((entries.iter().filter_map(outcome).collect(), excluded))
}

/// Rounds of programs that may take longer are reported as they end.
const SLOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::contender::Kind;

    const PATIENCE: Duration = Duration::from_secs(20);
    const GOAL: Goal<'_> = Goal { words: b"\x16", patience: PATIENCE, ends: true, long: PATIENCE };

    fn shell(name: &str, script: &str) -> Contender {
        let kind = Kind::Other(vec!["-c".into(), script.into()]);
        Contender { name: name.into(), program: "/bin/sh".into(), kind }
    }

    fn job() -> Job {
        Job::new("/k".into(), 64, Path::new("/"))
    }

    #[test]
    fn ours_is_compared_with_every_program() {
        let contenders = [shell("vireo", "printf '\\026'"), shell("slow", "sleep 0.05; printf 'V\\026'")];
        let (outcomes, _) = compare(&contenders, &job(), 3, GOAL).unwrap();
        assert_eq!(outcomes[0].ours_ratio, Some(1.0));
        assert!(outcomes[1].ours_ratio.unwrap() < 1.0);
        assert!(outcomes[1].heard_us.minimum >= 50_000.0);
        assert!(outcomes[0].exit_us.is_some());
    }

    #[test]
    fn words_are_heard_in_pieces() {
        let goal = Goal { words: b"up and running", ..GOAL };
        let pieces = shell("pieces", "printf 'it is up'; sleep 0.02; printf ' and running, so to speak'");
        assert_eq!(compare(&[pieces], &job(), 1, goal).unwrap().0.len(), 1);
    }

    #[test]
    fn a_program_that_goes_on_is_killed() {
        let goal = Goal { ends: false, ..GOAL };
        let endless = shell("endless", "printf '\\026'; exec sleep 1000");
        assert_eq!(compare(&[endless], &job(), 1, goal).unwrap().0[0].exit_us, None);
    }

    #[test]
    fn a_program_that_fails_is_left_out_with_its_error_output() {
        let contenders = [shell("broken", "echo no such kernel >&2"), shell("good", "printf '\\026'")];
        let (outcomes, excluded) = compare(&contenders, &job(), 1, GOAL).unwrap();
        assert_eq!(outcomes.len(), 1);
        assert!(excluded[0].reason.contains("no such kernel"), "{}", excluded[0].reason);
    }

    #[test]
    fn a_slow_program_runs_less_often() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("runs");
        let slow = shell("slow", &format!("echo run >> {}; sleep 0.02; printf '\\026'", log.display()));
        compare(&[slow], &job(), 9, Goal { long: Duration::from_millis(10), ..GOAL }).unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 1 + FEW_ROUNDS);
    }

    #[test]
    fn ours_may_not_fail() {
        assert!(compare(&[shell("vireo", "exit 1")], &job(), 1, GOAL).is_err());
    }
}
