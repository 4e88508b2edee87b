//! `vireo lab` with a real emulated host. Each test takes a second or two where the lab is set up, and is skipped elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use lab::{Context, Verbosity, setup};
use rustix::process::{Pid, Signal, kill_process};

/// Whether there is an emulated host to test with; says so if not.
fn is_ready() -> bool {
    if std::env::var_os(lab::INSIDE).is_some() {
        eprintln!("skipped: this is the emulated host already");
        return false;
    }
    let ready = Context::new(Verbosity::Normal).is_ok_and(|context| setup::is_ready(&context));
    if !ready {
        eprintln!("skipped: the lab is not set up: run `vireo lab --setup`");
    }
    ready
}

fn vireo_lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireo"));
    command.arg("lab").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    vireo_lab(arguments).output().expect("vireo can be started")
}

#[test]
fn the_exit_code_and_both_streams_come_back() {
    if !is_ready() {
        return;
    }
    assert_eq!(run(&["--", "true"]).status.code(), Some(0));
    let output = run(&["--", "sh", "-c", "echo out; echo err >&2; test -c /dev/kvm && exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stdout, b"out\n");
    assert!(String::from_utf8_lossy(&output.stderr).lines().any(|line| line == "err"), "{output:?}");
}

#[test]
fn the_command_sees_directory_environment_files_and_input() {
    if !is_ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "contents\n").unwrap();
    let script = format!(
        "cat file - && echo \"$QUOTED\" && echo lost > file && cat file && echo kept > {}/out",
        shared.path().display()
    );
    let rw = shared.path().to_str().unwrap();
    let mut command = vireo_lab(&["--stdin", "--rw", rw, "--", "sh", "-c", &script]);
    command.current_dir(folder.path()).env("QUOTED", "it's  'so'");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "contents\ninput\nit's  'so'\nlost\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).unwrap(), "contents\n");
    assert_eq!(std::fs::read_to_string(shared.path().join("out")).unwrap(), "kept\n");
}

#[test]
fn much_output_arrives_whole() {
    if !is_ready() {
        return;
    }
    let output = run(&["--", "seq", "300000"]);
    let wanted: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(output.stdout == wanted.as_bytes(), "{} bytes came", output.stdout.len());
}

#[test]
fn what_a_slow_reader_has_not_read_when_the_command_ends_is_not_lost() {
    if !is_ready() {
        return;
    }
    let mut command = vireo_lab(&["-v", "--timeout", "60", "--", "seq", "30000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running(child);
    let mut errors = BufReader::new(running.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("says: exit 0") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "the command does not end");
    }
    // More than the pipe to this process holds, and nothing of it has been read yet.
    let output = std::io::read_to_string(running.0.stdout.take().unwrap()).unwrap();
    let wanted: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
    assert!(output == wanted, "{} of {} bytes came", output.len(), wanted.len());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_time_limit_ends_a_run_and_unknown_commands_are_told() {
    if !is_ready() {
        return;
    }
    let output = run(&["--timeout", "2", "--", "sleep", "1000"]);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let output = run(&["--", "no-such-command"]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
}

/// Killed and waited for when dropped, also when an assertion fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn output_is_streamed_and_a_signal_ends_the_run_and_cleans_up() {
    if !is_ready() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut command = vireo_lab(&["--", "sh", "-c", "echo first; exec sleep 1000"]);
    let child = command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n", "it comes before the command ends");
    assert_ne!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left behind");
}
