//! A process with threads like a machine's: this very test program, started again and told by its environment what to do.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Barrier};

/// Tells the program that it is a machine.
const WORK: &str = "VIREO_TEST_STAND_IN";

/// What a machine does until its standard input ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Two vCPUs that are always busy.
    Busy,
    /// Two vCPUs that do nothing.
    Idle,
    /// Fills 64 MiB once it is told to.
    Memory,
    /// Takes the group that it is in for machines of its own, as a daemon does, once it is told to.
    TakeGroup,
}

/// A process that is ended when it is dropped.
#[derive(Debug)]
pub(crate) struct StandIn(Child, Lines<BufReader<ChildStdout>>);

impl StandIn {
    /// Starts one, with its threads.
    pub(crate) fn start(work: Work) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "machine_process::stand_in::works_when_it_is_told_to", "--nocapture"])
            .env(WORK, format!("{work:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stand_in = Self(child, output);
        assert_eq!(stand_in.said("ready"), "");
        stand_in
    }

    /// Waits for a line that begins so; its rest.
    pub(crate) fn said(&mut self, start: &str) -> String {
        let mut lines = self.1.by_ref().map_while(Result::ok);
        lines.find_map(|line| line.strip_prefix(start).map(str::to_owned)).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    /// Tells it to go on.
    pub(crate) fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn works_when_it_is_told_to() {
    let Ok(work) = std::env::var(WORK) else { return };
    let named = Arc::new(Barrier::new(3));
    let vcpu = |number| {
        let (busy, named) = (work == "Busy", Arc::clone(&named));
        let run = move || {
            // A thread names itself.
            named.wait();
            loop {
                if busy { std::hint::spin_loop() } else { std::thread::park() }
            }
        };
        std::thread::Builder::new().name(format!("vcpu{number}")).spawn(run).unwrap();
    };
    (0..2).for_each(vcpu);
    named.wait();
    println!("\nready");
    let mut input = std::io::stdin();
    if work == "Memory" {
        input.read_exact(&mut [0]).unwrap();
        std::hint::black_box(vec![1_u8; 64 << 20]);
    }
    if work == "TakeGroup" {
        input.read_exact(&mut [0]).unwrap();
        println!("taken: {:?}", crate::control_group::take_own_group());
    }
    let _ = input.read(&mut [0]);
    std::process::exit(0);
}
