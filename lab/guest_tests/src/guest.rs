//! One guest under test: a `vireo-vmm` process, its console and its control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for one thing to happen. Generous: an emulated host on a busy machine is a hundred times slower than a
/// real one, and a test that fails waits only once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What the guest's shell prints when it waits for a command.
const PROMPT: &str = "vireo# ";

/// The kernels that guests boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Debian's cloud kernel 6.12.
    V6_12,
    /// Debian's cloud kernel 6.1.
    V6_1,
}

/// How a kernel is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// bzImage, booted by the 64-bit Linux boot protocol.
    BzImage,
    /// ELF, booted by PVH.
    Vmlinux,
}

/// A machine to start.
#[derive(Debug)]
pub(crate) struct GuestBuilder {
    arguments: Vec<String>,
    command_line: String,
    directory: tempfile::TempDir,
}

impl GuestBuilder {
    /// The default guest of `kernel` with `cpus` vCPUs and 256 MiB, a shell on its serial port.
    pub(crate) fn new(kernel: Kernel, format: Format, cpus: &str) -> Result<Self> {
        let kind = match kernel {
            Kernel::V6_12 => lab::Kind::C612,
            Kernel::V6_1 => lab::Kind::C61,
        };
        let files = lab::guest::Guest::prepare(kind).context("preparing the guest")?;
        let image = match format {
            Format::BzImage => &files.vmlinuz,
            Format::Vmlinux => &files.vmlinux,
        };
        Self::bare(image)?
            .argument("--initramfs", &files.initramfs.display().to_string())
            .argument("--cpus", cpus)
            .pipe(Ok)
    }

    /// A machine with nothing but `kernel`.
    pub(crate) fn bare(kernel: &Path) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for the guest")?;
        let arguments = vec!["--kernel".into(), kernel.display().to_string()];
        let command_line = "console=ttyS0 quiet panic=-1 vireo.tty=ttyS0 vireo.shell".to_owned();
        Ok(Self { arguments, command_line, directory }
            .argument("--memory", "size=256M")
            .argument("--serial", "tty"))
    }

    fn pipe<T>(self, next: impl FnOnce(Self) -> T) -> T {
        next(self)
    }

    /// Adds an option of `vireo-vmm`, replacing it where it can be given once only.
    #[must_use]
    pub(crate) fn argument(mut self, option: &str, value: &str) -> Self {
        if matches!(option, "--memory" | "--serial" | "--cpus" | "--initramfs")
            && let Some(at) = self.arguments.iter().position(|argument| argument == option)
        {
            self.arguments.drain(at..at + 2);
        }
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// Adds words to the kernel's command line.
    #[must_use]
    pub(crate) fn words(mut self, words: &str) -> Self {
        self.command_line = format!("{} {words}", self.command_line);
        self
    }

    /// A directory that lives as long as the guest.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts `vireo-vmm`.
    pub(crate) fn start(self) -> Result<Guest> {
        let socket = self.directory.path().join("api.sock");
        let mut command = Command::new(vmm_path()?);
        command
            .args(&self.arguments)
            .arg("--cmdline")
            .arg(&self.command_line)
            .arg("--api-socket")
            .arg(&socket);
        Guest::spawn(command, socket, self.directory)
    }
}

/// The machine's program: `vireo-vmm`, or what `VIREO_VMM` names.
pub(crate) fn vmm_path() -> Result<PathBuf> {
    match std::env::var_os("VIREO_VMM") {
        Some(path) => Ok(path.into()),
        None => program_path("vireo-vmm"),
    }
}

/// A program under test: beside the one that `VIREO_VMM` names, or beside this one.
pub(crate) fn program_path(name: &str) -> Result<PathBuf> {
    let own = match std::env::var_os("VIREO_VMM") {
        Some(path) => path.into(),
        None => std::env::current_exe().context("finding this program")?,
    };
    let directory = own.parent().context("this program has no directory")?;
    for candidate in [directory.join(name), directory.join("..").join(name)] {
        if candidate.exists() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not beside {}: build it first, or name vireo-vmm in VIREO_VMM", own.display())
}

/// A running guest. Dropping it ends its process.
#[derive(Debug)]
pub(crate) struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// What the console said and nobody has waited for yet.
    heard: String,
    /// Everything that the console said.
    transcript: String,
    socket: PathBuf,
    /// What the guest's files are in; goes with it.
    _directory: tempfile::TempDir,
}

impl Guest {
    /// A guest whose console is at the input and output of `command`, and which has no control socket of its own.
    pub(crate) fn behind(command: Command) -> Result<Self> {
        Self::spawn(command, PathBuf::new(), tempfile::tempdir()?)
    }

    fn spawn(mut command: Command, socket: PathBuf, directory: tempfile::TempDir) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let input = child.stdin.take();
        let (bytes, output) = mpsc::channel();
        for stream in [
            child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ] {
            let (mut stream, bytes) = (stream.context("the child has pipes")?, bytes.clone());
            std::thread::Builder::new().name("console".into()).spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if bytes.send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
            })?;
        }
        Ok(Self {
            child,
            input,
            output,
            heard: String::new(),
            transcript: String::new(),
            socket,
            _directory: directory,
        })
    }

    /// Waits until the console (or the VMM's log) has said `text`; returns what came before it.
    pub(crate) fn expect(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.heard.find(text) {
                let before = self.heard[..at].to_owned();
                self.heard.drain(..at + text.len());
                return Ok(before);
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    let bytes = String::from_utf8_lossy(&bytes).replace('\r', "");
                    self.heard.push_str(&bytes);
                    self.transcript.push_str(&bytes);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest did not say {text:?} in {PATIENCE:?}; {}", self.said())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended before it said {text:?}; {}", self.said())
                }
            }
        }
    }

    /// The end of everything that was said, for messages.
    fn said(&self) -> String {
        let start = self.transcript.len().saturating_sub(3000);
        let start =
            (start..=self.transcript.len()).find(|at| self.transcript.is_char_boundary(*at)).unwrap_or(0);
        format!("it said:\n{}", &self.transcript[start..])
    }

    /// Waits for the guest's shell.
    pub(crate) fn expect_shell(&mut self) -> Result<()> {
        self.expect("VIREO-GUEST-UP")?;
        self.expect(PROMPT)?;
        Ok(())
    }

    /// Presses Enter until the shell answers: what is typed before a program has its terminal ready is lost, as for anybody.
    pub(crate) fn wake_shell(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.type_line("")?;
        while !self.heard.contains(PROMPT) {
            ensure!(Instant::now() < deadline, "the shell did not answer in {PATIENCE:?}; {}", self.said());
            match self.output.recv_timeout(Duration::from_secs(5)) {
                Ok(bytes) => {
                    let bytes = String::from_utf8_lossy(&bytes).replace('\r', "");
                    self.heard.push_str(&bytes);
                    self.transcript.push_str(&bytes);
                }
                Err(RecvTimeoutError::Timeout) => self.type_line("")?,
                Err(RecvTimeoutError::Disconnected) => bail!("the console ended; {}", self.said()),
            }
        }
        self.expect(PROMPT).map(drop)
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the console's input is closed")?;
        writeln!(input, "{line}").context("typing on the guest's console")
    }

    /// Runs a command in the guest's shell; its output, if it succeeded.
    pub(crate) fn run(&mut self, command: &str) -> Result<String> {
        // The quotes keep the echo of the typed line from looking like the marks.
        self.type_line(&format!("echo \"BE\"GIN; {command}; echo \"DO\"NE=$?."))?;
        self.expect("BEGIN\n")?;
        let output = self.expect("DONE=")?.trim().to_owned();
        let code = self.expect(".")?;
        self.expect(PROMPT)?;
        ensure!(code == "0", "{command:?} failed in the guest with {code}: {output}");
        Ok(output)
    }

    /// Powers the guest off from its shell and waits for the process to end well.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.type_line("poweroff -f")?;
        self.expect_exit(0)
    }

    /// As [`Guest::power_off`]; looks at what the guest left in its directory before that goes.
    pub(crate) fn power_off_keeping(mut self, look: impl FnOnce() -> Result<()>) -> Result<()> {
        self.type_line("poweroff -f")?;
        self.expect_exit(0)?;
        look()
    }

    /// Waits for the process to end with `code`.
    pub(crate) fn expect_exit(&mut self, code: i32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // Both pipes close when the process ends.
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.transcript.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("vireo-vmm did not end in {PATIENCE:?}; {}", self.said())
                }
            }
        }
        let status = self.child.wait().context("waiting for vireo-vmm")?;
        ensure!(status.code() == Some(code), "vireo-vmm ended with {status}, not {code}; {}", self.said());
        Ok(())
    }
    /// Kills the process as kill -9 does.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("killing vireo-vmm")?;
        self.child.wait().context("waiting for vireo-vmm")?;
        Ok(())
    }

    /// Everything that was said so far.
    pub(crate) fn transcript(&self) -> &str {
        &self.transcript
    }

    /// Process number of the VMM.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request to the control API; status and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket).context("connecting to the control socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: vireo\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        read_answer(BufReader::new(stream))
    }

    /// Sends a request that must succeed.
    pub(crate) fn action(&self, path: &str) -> Result<()> {
        let (status, body) = self.request("PUT", path, None)?;
        ensure!(status == 204, "{path} was answered {status}: {body}");
        Ok(())
    }

    /// The machine's state as vm.info shows it.
    pub(crate) fn state(&self) -> Result<String> {
        let (status, info) = self.request("GET", "vm.info", None)?;
        ensure!(status == 200, "vm.info was answered {status}: {info}");
        Ok(info["state"].as_str().unwrap_or_default().to_owned())
    }
}

fn read_answer(mut reader: impl BufRead) -> Result<(u16, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().context("a bad content length")?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).context("a body that is not JSON")?
    };
    Ok((status, body))
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
