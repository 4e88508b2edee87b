//! A console with a guest behind it that sends back what is typed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bench::tiny_kernel::{Ending, GREETING, image};

const PATIENCE: Duration = Duration::from_secs(20);

struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits until the file at `path` ends like that.
fn wait_for_log(path: &Path, end: &[u8]) {
    let start = Instant::now();
    while !std::fs::read(path).is_ok_and(|log| log.ends_with(end)) {
        assert!(start.elapsed() < PATIENCE, "{:?}", std::fs::read(path));
        std::thread::yield_now();
    }
}

/// The pseudo-terminal that the machine tells of.
fn terminal(api: &Path) -> PathBuf {
    let mut stream = UnixStream::connect(api).unwrap();
    stream.write_all(b"GET /api/v1/vm.info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"mode\":\"Pty\""), "{answer}");
    let at = answer.find("/dev/pts/").unwrap_or_else(|| panic!("no terminal: {answer}"));
    answer[at..].split('"').next().unwrap().into()
}

#[test]
fn everything_printed_is_in_the_log_whether_or_not_somebody_has_the_terminal() {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("skipped: there is no KVM");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (kernel, log, api) = (path("kernel"), path("log"), path("api"));
    std::fs::write(&kernel, image(Ending::Echo)).unwrap();
    std::fs::write(&log, "the life before\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireo-vmm"));
    command.arg("--kernel").arg(&kernel).args(["--memory", "64M", "--serial"]);
    command.arg(format!("pty,log={}", log.display())).arg("--api-socket").arg(&api);
    let _machine = Machine(command.spawn().unwrap());
    wait_for_log(&log, &[b"the life before\n".as_slice(), &[GREETING]].concat());
    let terminal = terminal(&api);
    for words in ["first\n", "second\n"] {
        let mut terminal = File::options().read(true).write(true).open(&terminal).unwrap();
        terminal.write_all(words.as_bytes()).unwrap();
        wait_for_log(&log, words.as_bytes());
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(words.as_bytes()) {
            terminal.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
    let all = std::fs::read(&log).unwrap();
    assert_eq!(all, [b"the life before\n".as_slice(), &[GREETING], b"first\nsecond\n"].concat());
}
