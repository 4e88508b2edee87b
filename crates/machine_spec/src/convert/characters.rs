//! The serial port and the ports of the virtio console.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checked_path;
use crate::error::SpecError;
use crate::spec::{CharacterSpec, ConsolePortSpec, MAX_CONSOLE_PORTS, MAX_PORT_NAME_BYTES};
use crate::wire::{ConsoleConfig, ConsoleMode, ConsolePortConfig, SerialConfig};

pub(super) fn serial_and_console(
    serial: Option<SerialConfig>,
    console: Option<ConsoleConfig>,
    ports: Vec<ConsolePortConfig>,
) -> Result<(CharacterSpec, Vec<ConsolePortSpec>), SpecError> {
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
    let serial = match serial {
        None if nothing_described => users.admit("serial", ConsoleMode::Tty, None, None)?,
        None => CharacterSpec::Off,
        Some(SerialConfig { mode, file, socket }) => users.admit("serial", mode, file, socket)?,
    };
    let mut all = Vec::new();
    if let Some(ConsoleConfig { mode, file, socket }) = console {
        match users.admit("console", mode, file, socket)? {
            CharacterSpec::Off => {}
            backend => all.push(ConsolePortSpec { name: None, backend }),
        }
    }
    for (index, ConsolePortConfig { name, mode, file, socket }) in ports.into_iter().enumerate() {
        let object = format!("console_ports[{index}]");
        let backend = match users.admit(&object, mode, file, socket)? {
            CharacterSpec::Off => {
                let conflict = "mode Off";
                let advice = "a port that is not there is not described: leave it out";
                return Err(SpecError::Conflict { object, conflict, advice });
            }
            backend => backend,
        };
        if let Some(name) = &name {
            users.admit_name(&object, name)?;
        }
        all.push(ConsolePortSpec { name, backend });
    }
    Ok((serial, all))
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
    ports: &[ConsolePortSpec],
) -> (SerialConfig, ConsoleConfig, Vec<ConsolePortConfig>) {
    let (mode, file, socket) = describe_backend(serial);
    let serial = SerialConfig { mode, file, socket };
    let (console, further) = match ports {
        [ConsolePortSpec { name: None, backend }, further @ ..] => {
            let (mode, file, socket) = describe_backend(backend);
            (ConsoleConfig { mode, file, socket }, further)
        }
        ports => (ConsoleConfig::default(), ports),
    };
    let further = further.iter().map(|ConsolePortSpec { name, backend }| {
        let (mode, file, socket) = describe_backend(backend);
        ConsolePortConfig { name: name.clone(), mode, file, socket }
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
