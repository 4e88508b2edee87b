//! The serial port and the ports of the virtio console.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checked_path;
use crate::error::SpecError;
use crate::spec::{CharacterSpec, ConsolePortSpec, MAX_CONSOLE_PORTS, MAX_PORT_NAME_BYTES};
use crate::wire::{ConsoleConfig, ConsoleMode, ConsolePortConfig, SerialConfig};

/// The checked character devices.
pub(super) struct Characters {
    pub(super) serial: CharacterSpec,
    pub(super) serial_log: Option<PathBuf>,
    pub(super) console_ports: Vec<ConsolePortSpec>,
}

/// The paths that a description gives a character device.
#[derive(Default)]
struct Paths {
    file: Option<PathBuf>,
    socket: Option<PathBuf>,
    log: Option<PathBuf>,
}

pub(super) fn serial_and_console(
    serial: Option<SerialConfig>,
    console: Option<ConsoleConfig>,
    ports: Vec<ConsolePortConfig>,
) -> Result<Characters, SpecError> {
    let nothing_described = serial.is_none() && console.is_none() && ports.is_empty();
    if ports.len() > MAX_CONSOLE_PORTS {
        return Err(SpecError::Value {
            object: "console_ports".to_owned(),
            option: "number",
            value: ports.len().to_string(),
            reason: "of ports is too large",
            advice: "describe at most 32",
        });
    }
    let mut users = Users::default();
    let (serial, serial_log) = match serial {
        None if nothing_described => users.admit("serial", ConsoleMode::Tty, Paths::default())?,
        None => (CharacterSpec::Off, None),
        Some(SerialConfig { mode, file, socket, log }) => {
            users.admit("serial", mode, Paths { file, socket, log })?
        }
    };
    let mut console_ports = Vec::new();
    if let Some(ConsoleConfig { mode, file, socket, log }) = console {
        match users.admit("console", mode, Paths { file, socket, log })? {
            (CharacterSpec::Off, _) => {}
            (backend, log) => console_ports.push(ConsolePortSpec { name: None, backend, log }),
        }
    }
    for (index, ConsolePortConfig { name, mode, file, socket, log }) in ports.into_iter().enumerate() {
        let object = format!("console_ports[{index}]");
        let (backend, log) = match users.admit(&object, mode, Paths { file, socket, log })? {
            (CharacterSpec::Off, _) => {
                let conflict = "mode Off";
                let advice = "a port that is not there is not described: leave it out";
                return Err(SpecError::Conflict { object, conflict, advice });
            }
            admitted => admitted,
        };
        if let Some(name) = &name {
            users.admit_name(&object, name)?;
        }
        console_ports.push(ConsolePortSpec { name, backend, log });
    }
    Ok(Characters { serial, serial_log, console_ports })
}

/// What character devices use already, and which.
#[derive(Default)]
struct Users {
    terminal: Option<String>,
    resources: BTreeMap<String, String>,
}

impl Users {
    fn admit(
        &mut self,
        object: &str,
        mode: ConsoleMode,
        Paths { file, socket, log }: Paths,
    ) -> Result<(CharacterSpec, Option<PathBuf>), SpecError> {
        let backend = self.admit_backend(object, mode, file, socket)?;
        let Some(log) = log else { return Ok((backend, None)) };
        if backend == CharacterSpec::Off {
            return Err(SpecError::Conflict {
                object: object.to_owned(),
                conflict: "log with mode Off",
                advice: "a device that is not there prints nothing: leave the log out",
            });
        }
        let log = checked_path(object, "log", log)?;
        // And the one that it becomes when it is full.
        for path in [&log, &log.with_added_extension("1")] {
            self.take(object, format!("file {path:?}"))?;
        }
        Ok((backend, Some(log)))
    }

    fn admit_backend(
        &mut self,
        object: &str,
        mode: ConsoleMode,
        file: Option<PathBuf>,
        socket: Option<PathBuf>,
    ) -> Result<CharacterSpec, SpecError> {
        let needs = |option, advice| SpecError::Missing { object: object.to_owned(), option, advice };
        let excess = |conflict| SpecError::Conflict {
            object: object.to_owned(),
            conflict,
            advice: "leave out what does not belong to the mode",
        };
        match (mode, file, socket) {
            (ConsoleMode::File, None, _) => Err(needs("file", "give the output's path with file=PATH")),
            (ConsoleMode::Socket, _, None) => Err(needs("socket", "give its path with socket=PATH")),
            (ConsoleMode::File, Some(path), None) => {
                let path = checked_path(object, "file", path)?;
                self.take(object, format!("file {path:?}"))?;
                Ok(CharacterSpec::File(path))
            }
            (ConsoleMode::Socket, None, Some(path)) => {
                let path = checked_path(object, "socket", path)?;
                self.take(object, format!("socket {path:?}"))?;
                Ok(CharacterSpec::Socket(path))
            }
            (_, Some(_), _) => Err(excess("file with a mode that has none")),
            (_, None, Some(_)) => Err(excess("socket with a mode that has none")),
            (ConsoleMode::Off, None, None) => Ok(CharacterSpec::Off),
            (ConsoleMode::Null, None, None) => Ok(CharacterSpec::Null),
            (ConsoleMode::Pty, None, None) => Ok(CharacterSpec::Pty),
            (ConsoleMode::Tty, None, None) => match &self.terminal {
                Some(other) => {
                    Err(SpecError::TwoTerminals { object: object.to_owned(), other: other.clone() })
                }
                None => {
                    self.terminal = Some(object.to_owned());
                    Ok(CharacterSpec::Tty)
                }
            },
        }
    }

    /// Virtio 1.2, 5.3.6.2 (VIRTIO_CONSOLE_PORT_NAME); the guest makes a file of it under /dev/virtio-ports.
    fn admit_name(&mut self, object: &str, name: &str) -> Result<(), SpecError> {
        let possible = (1..=MAX_PORT_NAME_BYTES).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !possible {
            return Err(SpecError::Value {
                object: object.to_owned(),
                option: "name",
                value: name.to_owned(),
                reason: "is not the name of a port",
                advice: "use 1 to 64 printable ASCII characters without / or spaces",
            });
        }
        self.take(object, format!("name {name}"))
    }

    fn take(&mut self, object: &str, resource: String) -> Result<(), SpecError> {
        match self.resources.insert(resource.clone(), object.to_owned()) {
            None => Ok(()),
            Some(other) => Err(SpecError::DuplicateResource { object: object.to_owned(), other, resource }),
        }
    }
}

pub(super) fn describe(
    serial: &CharacterSpec,
    serial_log: Option<&Path>,
    ports: &[ConsolePortSpec],
) -> (SerialConfig, ConsoleConfig, Vec<ConsolePortConfig>) {
    let (mode, file, socket) = describe_backend(serial);
    let serial = SerialConfig { mode, file, socket, log: serial_log.map(Path::to_owned) };
    let (console, further) = match ports {
        [ConsolePortSpec { name: None, backend, log }, further @ ..] => {
            let (mode, file, socket) = describe_backend(backend);
            (ConsoleConfig { mode, file, socket, log: log.clone() }, further)
        }
        ports => (ConsoleConfig::default(), ports),
    };
    let further = further.iter().map(|ConsolePortSpec { name, backend, log }| {
        let (mode, file, socket) = describe_backend(backend);
        ConsolePortConfig { name: name.clone(), mode, file, socket, log: log.clone() }
    });
    (serial, console, further.collect())
}

fn describe_backend(spec: &CharacterSpec) -> (ConsoleMode, Option<PathBuf>, Option<PathBuf>) {
    match spec {
        CharacterSpec::Off => (ConsoleMode::Off, None, None),
        CharacterSpec::Null => (ConsoleMode::Null, None, None),
        CharacterSpec::Tty => (ConsoleMode::Tty, None, None),
        CharacterSpec::Pty => (ConsoleMode::Pty, None, None),
        CharacterSpec::File(path) => (ConsoleMode::File, Some(path.clone()), None),
        CharacterSpec::Socket(path) => (ConsoleMode::Socket, None, Some(path.clone())),
    }
}
