//! The same lines of virsh on Debian's libvirtd and on vireod: what virsh prints has to be the same.
//!
//! Scripts are files of such lines (`scripts`), documents are beside them (`documents`, the faulty ones in one file with their names);
//! each daemon has its own copy, in a folder in which virsh runs. libvirtd runs its machines with QEMU's emulation, vireod with the
//! process that stands in for a machine. Before a line may stand:
//!
//! - `-r`: virsh's option, a connection that may only read;
//! - `numbers:`: numbers are what was measured, and only have to be there;
//! - `any-order:`: lines may come in another order;
//! - `settles:`: a domain goes with the connection that has started it, at some time after: the line is asked again until the
//!   domain is shut off or not found.
//!
//! What is answered differently on purpose says so in a line before, with the reason. It has to differ: what has become the same is to
//! be taken out of the list.
//!
//! - `differs: REASON`: the whole answer;
//! - `lacks: TEXT | REASON`: vireod's answer has no lines that begin with this text, and libvirtd's has;
//! - `adds: TEXT | REASON`: the other way round.
//!
//! What has to differ in what is printed is replaced by one word ([`same`]). A line of an error may say more than libvirt's does, after
//! all of libvirt's.

mod enclosed;

use std::fmt::Write;
use std::time::{Duration, Instant};

use bench::tiny_kernel::{Ending, image};

use self::enclosed::Enclosed;
use super::*;

const SCRIPTS: [(&str, &str); 6] = [
    ("definitions", include_str!("scripts/definitions.virsh")),
    ("life", include_str!("scripts/life.virsh")),
    ("devices", include_str!("scripts/devices.virsh")),
    ("host", include_str!("scripts/host.virsh")),
    ("storage", include_str!("scripts/storage.virsh")),
    ("end", include_str!("scripts/end.virsh")),
];

/// libvirtd's own configuration, and that of its machines: nothing that needs the host's users, security modules or control groups.
const CONFIGURATION: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";
const QEMU: &str = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n\
                    seccomp_sandbox = 0\nremember_owner = 0\nstdio_handler = \"file\"\n";

const LIBVIRTD: &str = "/usr/sbin/libvirtd";
/// Debian 12's: what each version says is a little different.
const VERSION: &str = " 9.0.0";

const QEMU_PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const MOCK_MACHINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mock_machine");

/// What stands before and behind something that is never twice the same.
const TIMES_AND_TERMINALS: [(&str, &str); 5] =
    [("/dev/pts/", "'"), ("<atime>", "<"), ("<mtime>", "<"), ("<ctime>", "<"), ("<btime>", "<")];

/// What virsh may take for one line, seconds.
const PATIENCE: &str = "30";

/// What a domain may take to go with its connection.
const SETTLED: Duration = Duration::from_secs(30);

/// What differs on purpose.
enum Difference<'a> {
    Everything(&'a str),
    Lacks(&'a str),
    Adds(&'a str),
}

/// One line of a script.
#[derive(Default)]
struct Line<'a> {
    script: &'a str,
    text: &'a str,
    read_only: bool,
    numbers: bool,
    any_order: bool,
    settles: bool,
    differences: Vec<Difference<'a>>,
}

fn lines() -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (script, text) in SCRIPTS {
        let mut line = Line { script, ..Line::default() };
        for text in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            // The reason is for who reads the script.
            let of = |text: &'static str| text.split_once(" | ").expect("a text and a reason").0;
            if let Some(reason) = text.strip_prefix("differs: ") {
                line.differences.push(Difference::Everything(reason));
            } else if let Some(rest) = text.strip_prefix("lacks: ") {
                line.differences.push(Difference::Lacks(of(rest)));
            } else if let Some(rest) = text.strip_prefix("adds: ") {
                line.differences.push(Difference::Adds(of(rest)));
            } else {
                line.text = text;
                for (prefix, flag) in [
                    ("numbers: ", &mut line.numbers),
                    ("any-order: ", &mut line.any_order),
                    ("settles: ", &mut line.settles),
                    ("-r ", &mut line.read_only),
                ] {
                    (line.text, *flag) = match line.text.strip_prefix(prefix) {
                        Some(rest) => (rest, true),
                        None => (line.text, false),
                    };
                }
                if !sayable(line.text) {
                    line = Line { script, ..Line::default() };
                    continue;
                }
                lines.push(std::mem::replace(&mut line, Line { script, ..Line::default() }));
            }
        }
        assert!(line.differences.is_empty(), "{script} ends with a difference of nothing");
    }
    lines
}

/// Whether both have something to say of it on this host.
fn sayable(line: &str) -> bool {
    // Without KVM vireod knows of no machines; what firmware says libvirtd asks a program of its own.
    let needed = [
        ("domcapabilities", Path::new("/dev/kvm").exists()),
        ("sysinfo", !Path::new("/sys/class/dmi/id").exists()),
    ];
    needed.iter().all(|(command, there)| *there || !line.starts_with(command))
}

/// Checks a line; what is wrong.
fn compare(line: &Line<'_>, mut theirs: Printed, mut ours: Printed) -> Option<String> {
    let mut wrong = String::new();
    let mut everything = None;
    for difference in &line.differences {
        let (text, has, lacks) = match difference {
            Difference::Everything(reason) => {
                everything = Some(reason);
                continue;
            }
            Difference::Lacks(text) => (text, &mut theirs, &ours),
            Difference::Adds(text) => (text, &mut ours, &theirs),
        };
        let before = has.out.len();
        has.out.retain(|line| !line.starts_with(text));
        if before == has.out.len() || lacks.out.iter().any(|line| line.starts_with(text)) {
            let _ = writeln!(wrong, "    no difference in {text:?}");
        }
    }
    match everything {
        Some(reason) if ours.says(&theirs) => {
            let _ = writeln!(wrong, "    does not differ: {reason}");
        }
        None if !ours.says(&theirs) => {
            wrong.push_str(&theirs.show("libvirtd", &ours));
            wrong.push_str(&ours.show("vireod", &theirs));
        }
        _ => {}
    }
    let read_only = if line.read_only { "-r " } else { "" };
    (!wrong.is_empty()).then(|| format!("{}: virsh {read_only}{}\n{wrong}", line.script, line.text))
}

/// A folder with what the scripts name; its documents are of domains of this type.
fn folder(place: &Path, kind: &str) -> PathBuf {
    std::fs::create_dir(place).unwrap();
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/compare/documents");
    let write = |name: &str, text: &str| {
        let text = text.replace("{type}", kind).replace("{dir}", place.to_str().unwrap());
        std::fs::write(place.join(name), text).unwrap();
    };
    for document in std::fs::read_dir(documents).unwrap() {
        let document = document.unwrap();
        write(document.file_name().to_str().unwrap(), &std::fs::read_to_string(document.path()).unwrap());
    }
    for line in include_str!("documents/faulty.txt").lines() {
        let (name, text) = line.split_once(' ').unwrap();
        write(name, text);
    }
    std::fs::write(place.join("kernel"), image(Ending::Halt)).unwrap();
    std::fs::write(place.join("data"), [b'd'; 4096]).unwrap();
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).arg(place.join("disk.qcow2")).arg("4M");
    assert!(command.status().unwrap().success());
    place.to_owned()
}

fn libvirtd(folder: &Path) -> Result<Enclosed, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can keep libvirtd away from the host".into());
    }
    let version = Command::new(LIBVIRTD).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match version {
        Ok(version) if version.ends_with(VERSION) && Path::new("/etc/libvirt").is_dir() => {}
        Ok(version) => return Err(format!("this is {version}, and the scripts are written for {VERSION}")),
        Err(error) => {
            return Err(format!("{LIBVIRTD} (Debian: libvirt-daemon, libvirt-daemon-driver-qemu): {error}"));
        }
    }
    let configuration = format!("{CONFIGURATION}unix_sock_dir = \"{}\"\n", folder.display());
    std::fs::write(folder.join("libvirtd.conf"), configuration).unwrap();
    std::fs::write(folder.join("libvirt.conf"), "").unwrap();
    std::fs::write(folder.join("qemu.conf"), QEMU).unwrap();
    let mut command = Command::new(LIBVIRTD);
    command.arg("--config").arg(folder.join("libvirtd.conf"));
    command.arg("--pid-file").arg(folder.join("libvirtd.pid"));
    Enclosed::start(folder, folder.join("libvirt-sock"), &mut command)
}

fn vireod(folder: &Path) -> Enclosed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireod"));
    command.arg("--state-dir").arg(folder.join("state")).arg("--runtime-dir").arg(folder.join("run"));
    command.arg("--machine-program").arg(MOCK_MACHINE);
    Enclosed::start(folder, folder.join("run/libvirt-sock"), &mut command).unwrap()
}

/// Everything that virsh prints.
#[derive(Debug, PartialEq, Eq)]
struct Printed {
    code: Option<i32>,
    out: Vec<String>,
    err: Vec<String>,
}

impl Printed {
    /// Whether it says what libvirt says; errors may say more.
    fn says(&self, libvirt: &Self) -> bool {
        let says = |(ours, theirs): (&String, &String)| {
            let more = ours.strip_prefix(theirs.as_str());
            more.is_some_and(|more| more.is_empty() || more.starts_with([':', ' ', ',']))
        };
        self.code == libvirt.code
            && self.out == libvirt.out
            && self.err.len() == libvirt.err.len()
            && self.err.iter().zip(&libvirt.err).all(says)
    }

    /// What only one of them has said, or everything where that is short.
    fn show(&self, who: &str, other: &Self) -> String {
        let mut shown = format!("    {who} ({})\n", self.code.unwrap_or(-1));
        let short = self.out.len() + other.out.len() < 20;
        let at_fault = self.out.iter().zip(&other.out).position(|(ours, theirs)| ours != theirs);
        let at_fault = at_fault.unwrap_or(self.out.len().min(other.out.len()));
        let said = self
            .out
            .iter()
            .enumerate()
            .filter(|(at, line)| short || *at == at_fault || !other.out.contains(line));
        for line in said.map(|(_, line)| line).chain(&self.err) {
            let _ = writeln!(shown, "        {line}");
        }
        shown
    }
}

fn run(line: &Line<'_>, uri: &str, folder: &Path) -> Printed {
    let text = line.text.replace("{dir}", folder.to_str().unwrap());
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "virsh", "-c", uri]).env("LC_ALL", "C").current_dir(folder);
    if line.read_only {
        command.arg("-r");
    }
    command.arg(text);
    let begun = Instant::now();
    let said = loop {
        let said = said(&mut command);
        let gone = said.out.contains("shut off") || said.err.contains("failed to get domain");
        if gone || !line.settles {
            break said;
        }
        assert!(begun.elapsed() < SETTLED, "{uri}: {}: {}{}", line.text, said.out, said.err);
    };
    assert!(said.status.code() != Some(124), "{uri}: {}: no answer in {PATIENCE} s", line.text);
    let same = |text: &str| {
        text.lines().map(|text| same(text, line.numbers, folder)).filter(|line| !line.is_empty()).collect()
    };
    let mut printed = Printed { code: said.status.code(), out: same(&said.out), err: same(&said.err) };
    if line.any_order {
        printed.out.sort();
    }
    printed
}

/// A line that was printed, without what has to differ.
fn same(text: &str, numbers: bool, folder: &Path) -> String {
    let text = text.replace(folder.to_str().unwrap(), "{dir}");
    // Columns are as wide as what is in them.
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.bytes().all(|byte| byte == b'-') {
        return String::new();
    }
    // libvirtd has none as a driver, vireod has no driver. A vCPU's time is left out while it is less than a tick.
    if text.starts_with("Security ") || (numbers && text.starts_with("CPU time:")) {
        return String::new();
    }
    // Emulated there, on KVM here.
    if text.starts_with("<domain type='") {
        text = text.replace("'qemu'", "'kvm'");
    }
    text = text.replace(QEMU_PROGRAM, "PROGRAM").replace(MOCK_MACHINE, "PROGRAM");
    for (start, end) in TIMES_AND_TERMINALS {
        text = without(&text, start, end);
    }
    text = without_uuids(&text);
    if numbers {
        text = without_numbers(&text);
    }
    text
}

/// Another word between `start` and the next `end` or the end of the line.
fn without(text: &str, start: &str, end: &str) -> String {
    let Some((before, rest)) = text.split_once(start) else { return text.to_owned() };
    let after = rest.find(end).map_or("", |at| &rest[at..]);
    format!("{before}{start}SOME{after}")
}

/// Those that are not in the documents were drawn.
fn without_uuids(text: &str) -> String {
    let words = text.split_inclusive(|letter: char| !letter.is_ascii_hexdigit() && letter != '-');
    let known =
        |word: &str| word.len() < 36 || word.matches('-').count() != 4 || word.starts_with("0c4b8f6e-");
    words.map(|word| if known(word) { word.to_owned() } else { format!("UUID{}", &word[36..]) }).collect()
}

/// Each number, with its digits behind a point.
fn without_numbers(text: &str) -> String {
    let mut replaced = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let digit_follows = letters.peek().is_some_and(char::is_ascii_digit);
        let after_number = replaced.ends_with('N');
        let inside = letter.is_ascii_digit() || (letter == '.' && after_number && digit_follows);
        match (inside, after_number) {
            (true, true) => {}
            (true, false) => replaced.push('N'),
            (false, _) => replaced.push(letter),
        }
    }
    replaced
}

#[test]
fn virsh_prints_the_same_as_on_libvirtd() {
    let place = tempfile::tempdir().unwrap();
    let theirs = folder(&place.path().join("libvirtd"), "qemu");
    let libvirtd = match libvirtd(&theirs) {
        Ok(libvirtd) => libvirtd,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let ours = folder(&place.path().join("vireod"), "kvm");
    let vireod = vireod(&ours);
    let lines = lines();
    let all = |uri: String, folder: &Path| -> Vec<Printed> {
        let begun = Instant::now();
        let printed = lines.iter().map(|line| run(line, &uri, folder)).collect();
        eprintln!("{uri}: {} lines in {:?}", lines.len(), begun.elapsed());
        printed
    };
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| all(libvirtd.uri(), &theirs));
        let ours = all(vireod.uri(), &ours);
        (theirs.join().unwrap(), ours)
    });
    let printed = theirs.into_iter().zip(ours);
    let wrong: Vec<String> =
        lines.iter().zip(printed).filter_map(|(line, (theirs, ours))| compare(line, theirs, ours)).collect();
    assert!(wrong.is_empty(), "{} of {} lines:\n{}", wrong.len(), lines.len(), wrong.concat());
}
