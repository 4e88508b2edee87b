//! `vireo run` on a real terminal, with a script in place of vireo-vmm.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// Waits for a signal without a second process keeping the terminal.
const IDLE: &str = "sleep 60 </dev/null >/dev/null 2>&1 & idle=$!";

/// One test at a time: a program that has just been written can't be run while a child of another test, forked at that
/// moment, still has it open (ETXTBSY).
static ALONE: Mutex<()> = Mutex::new(());

/// A folder with `vireo` and a fake `vireo-vmm` beside it.
struct Installed {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Installed {
    fn with_vmm(script: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let vireo = directory.path().join("vireo");
        std::fs::copy(env!("CARGO_BIN_EXE_vireo"), vireo).expect("a copy of vireo");
        let vmm = directory.path().join("vireo-vmm");
        std::fs::write(&vmm, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&vmm, PermissionsExt::from_mode(0o755)).expect("an executable");
        Self { directory, _alone: alone }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command, as the leader of a session on its standard input.
    fn command(&self, prefix: &[&str]) -> Command {
        let vireo = self.path("vireo").into_os_string().into_string().expect("a text");
        let words = ["run", "--no-lab", "--kernel", "/k"].map(str::to_owned);
        let mut all = prefix.iter().map(|word| (*word).to_owned()).chain([vireo]).chain(words);
        let mut command = Command::new(all.next().expect("a program"));
        command.args(all);
        command
    }

    fn on_terminal(&self) -> OnTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("access");
        unlockpt(&master).expect("access");
        let terminal = ioctl_tiocgptpeer(&master, flags).expect("its other side");
        let mut person =
            OnTerminal { master: Some(File::from(master)), terminal, child: None, seen: Vec::new() };
        person.resize(24, 80);
        let stream = || Stdio::from(person.terminal.try_clone().expect("a descriptor"));
        let mut command = self.command(&["setsid", "--ctty"]);
        command.stdin(stream()).stdout(stream()).stderr(stream());
        person.child = Some(command.spawn().expect("vireo runs"));
        person
    }
}

/// A person in front of a terminal on which `vireo run` runs.
struct OnTerminal {
    master: Option<File>,
    terminal: OwnedFd,
    child: Option<Child>,
    seen: Vec<u8>,
}

impl OnTerminal {
    fn echoes(&self) -> bool {
        tcgetattr(&self.terminal).expect("a terminal").local_modes.contains(LocalModes::ECHO)
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.terminal, size).expect("a terminal");
    }

    fn types(&mut self, text: &str) {
        self.master.as_mut().expect("not hung up").write_all(text.as_bytes()).expect("a terminal");
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        let master = self.master.as_mut().expect("not hung up");
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&patience));
        assert_eq!(ready, Ok(1), "nothing more after {:?}", String::from_utf8_lossy(&self.seen));
        let bytes = master.read(&mut chunk).expect("output");
        self.seen.extend_from_slice(&chunk[..bytes]);
    }

    fn sees(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.seen).contains(text)
    }

    /// Reads until `text` has appeared.
    fn waits_for(&mut self, text: &str) {
        while !self.sees(text) {
            self.read();
        }
    }

    fn signals(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("a child"), signal).expect("it runs");
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.as_mut().expect("a child").wait().expect("its end").code()
    }
}

#[test]
fn bytes_pass_unchanged_both_ways_and_the_exit_code_is_the_machines() {
    let installed = Installed::with_vmm(
        r#"printf 'ready\n'; head -c 4 | od -An -tx1 | tr -d '\n'; echo "oops" >&2; exit 7"#,
    );
    let mut person = installed.on_terminal();
    assert!(person.echoes());
    // Not changed to "\r\n" by any terminal on the way.
    person.waits_for("ready\n");
    assert!(!person.sees("ready\r"));
    assert!(!person.echoes());
    person.types("a\r\u{3}\u{4}");
    person.waits_for(" 61 0d 03 04");
    // But what the machine's monitor says starts at the left.
    person.waits_for("oops\r\n");
    assert_eq!(person.exit_code(), Some(7));
    assert!(person.echoes());
}

#[test]
fn the_key_leaves_and_ends_the_machine() {
    let script =
        format!("{IDLE}; trap 'kill $idle; echo ended by TERM; exit 0' TERM; echo ready; wait $idle");
    let installed = Installed::with_vmm(&script);
    let mut person = installed.on_terminal();
    person.waits_for("ready");
    assert!(person.sees("Ctrl-] leaves and ends the machine"));
    person.types("x\u{1d}");
    person.waits_for("the machine has been ended");
    assert!(person.sees("ended by TERM"));
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.echoes());
}

#[test]
fn a_signal_ends_the_machine_and_restores_the_terminal() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let script =
            format!("{IDLE}; trap 'kill $idle; echo ended by TERM; exit 0' TERM; echo ready; wait $idle");
        let installed = Installed::with_vmm(&script);
        let mut person = installed.on_terminal();
        person.waits_for("ready");
        assert!(!person.echoes());
        person.signals(signal);
        person.waits_for("ended by TERM");
        assert_eq!(person.exit_code(), Some(code));
        assert!(person.echoes());
    }
}

#[test]
fn a_machine_that_is_killed_has_failed() {
    let installed = Installed::with_vmm("echo ready; kill -9 $$");
    let mut person = installed.on_terminal();
    person.waits_for("was ended by signal 9");
    assert_eq!(person.exit_code(), Some(1));
    assert!(person.echoes());
}

#[test]
fn the_machine_has_the_size_of_the_window() {
    let installed = Installed::with_vmm("stty size; while read line; do stty size; done");
    let mut person = installed.on_terminal();
    person.waits_for("24 80");
    person.resize(50, 132);
    // The new size is passed on in its own time: ask until it has been.
    while !person.sees("50 132") {
        person.types("\n");
        person.read();
    }
    person.types("\u{1d}");
    person.waits_for("the machine has been ended");
    assert_eq!(person.exit_code(), Some(0));
}

#[test]
fn a_flood_of_output_arrives_whole_before_the_end() {
    let installed = Installed::with_vmm("yes 0123456789abcde | head -n 50000; echo; echo last");
    let mut person = installed.on_terminal();
    person.waits_for("\nlast\n");
    assert_eq!(person.exit_code(), Some(0));
    let lines = person.seen.split(|byte| *byte == b'\n').filter(|line| *line == b"0123456789abcde");
    assert_eq!(lines.count(), 50_000);
}

#[test]
fn a_terminal_that_vanishes_ends_the_machine() {
    let installed = Installed::with_vmm("exit 1");
    let fifo = installed.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let script = format!(
        "#!/bin/sh\n{IDLE}; trap 'kill $idle; echo ended > {}; exit 0' TERM HUP; echo ready; wait $idle\n",
        fifo.display()
    );
    std::fs::write(installed.path("vireo-vmm"), script).expect("a script");
    let ended = || std::fs::read_to_string(&fifo).expect("a line");

    let mut person = installed.on_terminal();
    person.waits_for("ready");
    person.master = None;
    assert_eq!(ended(), "ended\n");
    assert_eq!(person.exit_code(), Some(129));

    // Even when nothing could be done about it.
    let mut person = installed.on_terminal();
    person.waits_for("ready");
    person.signals(Signal::KILL);
    assert_eq!(ended(), "ended\n");
    assert_eq!(person.exit_code(), None);
}

#[test]
fn without_a_terminal_it_is_a_plain_pipe() {
    let installed = Installed::with_vmm("cat; echo \"$@\"; exit 3");
    let mut command = installed.command(&[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("vireo runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"a\x1d\r\n\x03").expect("a pipe");
    drop(input);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("a\u{1d}\r\n\u{3}--kernel /k --cmdline console=ttyS0 --cpus boot=1"), "{text}");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_bad_description_is_refused_before_anything_starts() {
    let installed = Installed::with_vmm("echo started");
    let mut command = installed.command(&[]);
    let output = command.args(["--memory", "1M"]).output().expect("vireo runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("at least 64M"));
}
