//! `vireo top`: what domains use, as it changes.
//!
//! One thread, which waits for keys, signals and the time of the next sample. The terminal is as before whatever happens.

mod figures;
mod keys;
mod view;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use self::figures::{Figures, Usage};
use self::keys::{Key, keys};
use self::view::{Order, View, table};
use super::{as_json, console, seconds, stats};
use crate::connection::{Error, Options, connect};
use crate::output::{colours, print, print_json};
use crate::signals::{Arrived, Signals};
use crate::terminal::RawTerminal;

const AFTER_HELP: &str = "\
Keys: c, m, d, n, a order by CPU, memory, disk, net, name; arrows (or j, k) select; / filters; Enter opens the console; q quits.
Without a terminal, or with --json, one sample is printed.";

/// Show what domains use, as it changes
#[derive(Debug, Args)]
#[command(before_help = AFTER_HELP)]
pub(crate) struct TopArguments {
    /// Seconds between samples
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Order at the beginning
    #[arg(short, long, value_enum, value_name = "BY", default_value = "cpu")]
    sort: Order,
    /// Only domains whose name contains this
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    filter: String,
}

/// Less than this would be work for its own sake.
const SHORTEST: Duration = Duration::from_millis(100);

/// State, processor, balloon, vCPUs, network, disks (virDomainStatsTypes).
const KINDS: u32 = 1 | 2 | 4 | 8 | 16 | 32;
/// A machine that hangs must not keep the others' figures back (VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT).
const NOWAIT: u32 = 1 << 29;

/// The terminal's other screen, without a cursor (xterm's control sequences, ctlseqs: DECSET 1049 and 25), and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

fn interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text)?;
    if interval < SHORTEST { Err("the shortest interval is 0.1".to_owned()) } else { Ok(interval) }
}

/// Where samples come from.
struct Source {
    connection: Connection,
    flags: u32,
}

impl Source {
    fn sample(&mut self, figures: &mut Figures) -> Result<(), Error> {
        let records = match stats::records(&mut self.connection, Vec::new(), KINDS, self.flags) {
            // A daemon that doesn't know that it need not wait.
            Err(error) if self.flags != 0 && error.code() == Some(ErrorCode::InvalidArgument) => {
                self.flags = 0;
                stats::records(&mut self.connection, Vec::new(), KINDS, 0)?
            }
            records => records?,
        };
        figures.take(&records, Instant::now());
        Ok(())
    }
}

/// Shows it.
pub(super) fn run(arguments: &TopArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut source = Source { connection: connect(options)?, flags: NOWAIT };
    let view = View { order: arguments.sort, filter: arguments.filter.clone(), ..View::default() };
    let mut figures = Figures::default();
    source.sample(&mut figures)?;
    if options.json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        // Rates need two samples.
        std::thread::sleep(arguments.interval);
        source.sample(&mut figures)?;
        let rows = view.rows(figures.all());
        if options.json {
            print_json(&rows.iter().map(|usage| json_of(usage)).collect())?;
        } else {
            print(&table(&rows, colours()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    Live { source, figures, view, interval: arguments.interval }.run()
}

fn json_of(usage: &Usage) -> serde_json::Value {
    let mut told = as_json(&usage.domain);
    let [read, written, received, sent] = usage.parts;
    told["state"] = json!(usage.state.name());
    told["vcpus"] = json!(usage.vcpus);
    told["cpu_percent"] = json!(usage.cpu.now);
    told["memory_kib"] = json!(usage.memory.now);
    told["memory_max_kib"] = json!(usage.memory_max);
    told["disk_bytes_per_second"] = json!({ "read": read, "written": written });
    told["net_bytes_per_second"] = json!({ "received": received, "sent": sent });
    told
}

struct Live {
    source: Source,
    figures: Figures,
    view: View,
    interval: Duration,
}

/// What a key asks for beyond the view.
enum Wish {
    Nothing,
    Quit,
    Console,
}

impl Live {
    fn run(mut self) -> Result<ExitCode, Error> {
        let signals = Signals::hold().context("cannot hold signals back")?;
        let stdout = std::io::stdout();
        let screen = crate::terminal::screen(&stdout).context("cannot use standard output")?;
        let mut raw = Some(enter(&screen)?);
        let mut due = Instant::now() + self.interval;
        loop {
            self.draw(&screen)?;
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.source.sample(&mut self.figures)?;
                due = Instant::now() + self.interval;
                continue;
            }
            let left = Timespec::try_from(left).ok();
            let stdin = std::io::stdin();
            let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(anyhow::Error::from(error).context("cannot wait for keys").into()),
            }
            let typed = !fds[1].revents().is_empty();
            while let Some(arrived) = signals.next() {
                if let Arrived::End(number) = arrived {
                    return Ok(ExitCode::from(128u8.saturating_add(number)));
                }
            }
            if !typed {
                continue;
            }
            match self.typed()? {
                Wish::Nothing => {}
                Wish::Quit => return Ok(ExitCode::SUCCESS),
                Wish::Console => {
                    drop(raw.take());
                    self.console();
                    raw = Some(enter(&screen)?);
                }
            }
        }
    }

    fn typed(&mut self) -> Result<Wish, Error> {
        let mut bytes = [0; 256];
        match rustix::io::read(std::io::stdin(), &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The terminal is gone.
            Ok(0) | Err(_) => return Ok(Wish::Quit),
            Ok(count) => {
                for key in keys(&bytes[..count]) {
                    match self.press(key) {
                        Wish::Nothing => {}
                        wish => return Ok(wish),
                    }
                }
            }
        }
        Ok(Wish::Nothing)
    }

    fn press(&mut self, key: Key) -> Wish {
        let view = &mut self.view;
        view.message.clear();
        if view.typing {
            match key {
                Key::Interrupt => return Wish::Quit,
                Key::Enter => view.typing = false,
                Key::Escape => {
                    view.typing = false;
                    view.filter.clear();
                }
                Key::Erase => {
                    view.filter.pop();
                }
                Key::Letter(letter) => view.filter.push(letter),
                Key::Up | Key::Down => {}
            }
            return Wish::Nothing;
        }
        let step = |view: &mut View, steps| {
            let rows = view.rows(self.figures.all());
            view.select(&rows, steps);
        };
        match key {
            Key::Interrupt | Key::Letter('q') => return Wish::Quit,
            Key::Enter | Key::Letter('o') => return Wish::Console,
            Key::Up | Key::Letter('k') => step(view, -1),
            Key::Down | Key::Letter('j') => step(view, 1),
            Key::Letter('/') => view.typing = true,
            Key::Letter('c') => view.order = Order::Cpu,
            Key::Letter('m') => view.order = Order::Memory,
            Key::Letter('d') => view.order = Order::Disk,
            Key::Letter('n') => view.order = Order::Net,
            Key::Letter('a') => view.order = Order::Name,
            Key::Escape => view.filter.clear(),
            Key::Erase | Key::Letter(_) => {}
        }
        Wish::Nothing
    }

    /// The console of the selected domain, on a terminal that is as before.
    fn console(&mut self) {
        let selected = self.view.selected;
        let usage = self.figures.all().find(|usage| Some(usage.domain.uuid.0) == selected);
        let Some(usage) = usage else {
            self.view.message = "select a domain with the arrows first".to_owned();
            return;
        };
        let domain = usage.domain.clone();
        let manner = console::Manner::from_the_start();
        if let Err(error) = console::attend(&mut self.source.connection, &domain, &manner) {
            self.view.message = error.to_string();
        }
    }

    fn draw(&self, screen: &OwnedFd) -> Result<(), Error> {
        let size = rustix::termios::tcgetwinsize(screen).map(|size| (size.ws_col, size.ws_row));
        let (width, height) = match size {
            Ok((width, height)) if width > 0 && height > 0 => (width, height),
            _ => (80, 24),
        };
        let rows = self.view.rows(self.figures.all());
        let lines = self.view.screen(&rows, width.into(), height.into(), colours());
        // Home; each line is erased behind its end, and what is below as well (ECMA-48: CUP, EL, ED).
        let mut text = "\x1b[H".to_owned();
        text.push_str(&lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n"));
        text.push_str("\x1b[J");
        write(screen, text.as_bytes())
    }
}

/// Makes the terminal raw and shows its other screen.
fn enter(screen: &OwnedFd) -> Result<RawTerminal, Error> {
    let raw = RawTerminal::enter_until(std::io::stdin(), LEAVE).context("cannot set up the terminal")?;
    write(screen, ENTER)?;
    Ok(raw)
}

/// Writes all of it. A terminal that takes nothing for a while gets the rest later, and meanwhile nothing new.
fn write(screen: &OwnedFd, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::io::write(screen, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(screen, PollFlags::OUT)];
                poll(&mut fds, None).context("cannot wait for the terminal")?;
            }
            Err(error) => return Err(anyhow::Error::from(error).context("cannot show anything").into()),
        }
    }
    Ok(())
}
