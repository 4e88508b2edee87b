//! One run of a program: executed, heard until its guest says something, ended.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

/// How much of a program's error output is repeated.
const SHOWN_BYTES: u64 = 4096;

/// A program whose guest has said what was waited for. Killed when dropped, unless it has ended.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: File,
    start: Instant,
    /// From before the execution until the guest said it.
    pub(crate) heard: Duration,
}

impl Running {
    /// Executes `command` and waits for `words` on its standard output, at most for `patience`.
    pub(crate) fn until(command: &[String], words: &[u8], patience: Duration) -> Result<Self> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let mut errors = tempfile::tempfile().context("a file for error output")?;
        let (output, writer) = std::io::pipe().context("a pipe")?;
        let mut prepared = Command::new(program);
        prepared.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors.try_clone()?);
        let start = Instant::now();
        let child = prepared.spawn().with_context(|| format!("executing {program}"))?;
        // Its copy of the pipe's other end would hide the child's exit.
        drop(prepared);
        let output = File::from(OwnedFd::from(output));
        let mut running = Self { child, output, start, heard: Duration::ZERO };
        let said = running.listen(words, patience)?;
        if let Some(said) = said {
            let mut text = String::from_utf8_lossy(&said).into_owned();
            errors.rewind()?;
            errors.take(SHOWN_BYTES).read_to_string(&mut text)?;
            bail!("the guest did not come so far: {}\n{text}", command.join(" "));
        }
        running.heard = running.start.elapsed();
        Ok(running)
    }

    /// `None` once the words were heard, else everything that was said.
    fn listen(&mut self, words: &[u8], patience: Duration) -> Result<Option<Vec<u8>>> {
        let mut said = Vec::new();
        let mut buffer = [0; 512];
        while self.readable(patience)? {
            let got = self.output.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            let again = said.len().saturating_sub(words.len());
            said.extend_from_slice(&buffer[..got]);
            if said[again..].windows(words.len()).any(|part| part == words) {
                return Ok(None);
            }
        }
        Ok(Some(said))
    }

    /// Waits until the program has exited by itself; how long that took since its guest was heard.
    pub(crate) fn exit(mut self, patience: Duration) -> Result<Duration> {
        let mut buffer = [0; 512];
        while self.readable(self.heard + patience)? {
            if self.output.read(&mut buffer)? == 0 {
                self.child.wait()?;
                return Ok(self.start.elapsed() - self.heard);
            }
        }
        bail!("the program did not end {} s after its guest was heard", patience.as_secs())
    }

    /// Waits until there is something to read, at most until `patience` after the start.
    fn readable(&self, patience: Duration) -> Result<bool> {
        let left = patience.saturating_sub(self.start.elapsed());
        let timeout = rustix::event::Timespec::try_from(left)?;
        let mut ready = [PollFd::new(&self.output, PollFlags::IN)];
        Ok(poll(&mut ready, Some(&timeout))? > 0)
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has exited already, or is to go: there is nothing to do about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
