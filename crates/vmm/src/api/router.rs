//! From a request to an action of the driver, and from its answer to a response.

use machine_spec::MachineSpec;
use machine_spec::wire::{self, VmConfig, VmInfo, VmResize, VmResizeDisk, VmSetLink, VmmPingResponse};

use super::http::{Response, Status};
use crate::control::{Action, CharacterDevice, ControlError, Controller, Reply, VmState};
use crate::random_mac::random_mac;

/// What an endpoint does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Endpoint {
    /// Answered here: it asks about the process, not the machine.
    Ping,
    /// Takes a description.
    Create,
    /// Takes the balloon's size and period.
    Resize,
    /// Takes a disk's identifier and size.
    ResizeDisk,
    /// Takes a network interface's identifier and whether its cable is plugged in.
    SetLink,
    /// An action without a body.
    Act(fn() -> Action),
}

/// An endpoint's address.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) endpoint: Endpoint,
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, method: "GET", endpoint }
}

const fn put(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, method: "PUT", endpoint }
}

/// What every path starts with.
pub(super) const ROOT: &str = "/api/v1";

/// Every endpoint. The paths are those of Cloud Hypervisor's API; it has `vm.nmi`, `vmm.nmi` is the same, and
/// `vm.boot-paused` and
/// `vm.set-link` are additions.
pub(super) const ROUTES: &[Route] = &[
    get("/vmm.ping", Endpoint::Ping),
    put("/vmm.shutdown", Endpoint::Act(|| Action::ShutdownVmm)),
    put("/vmm.nmi", Endpoint::Act(|| Action::Nmi)),
    put("/vm.nmi", Endpoint::Act(|| Action::Nmi)),
    put("/vm.create", Endpoint::Create),
    put("/vm.boot", Endpoint::Act(|| Action::Boot)),
    put("/vm.boot-paused", Endpoint::Act(|| Action::BootPaused)),
    get("/vm.info", Endpoint::Act(|| Action::Info)),
    get("/vm.counters", Endpoint::Act(|| Action::Counters)),
    put("/vm.pause", Endpoint::Act(|| Action::Pause)),
    put("/vm.resume", Endpoint::Act(|| Action::Resume)),
    put("/vm.reboot", Endpoint::Act(|| Action::Reboot)),
    put("/vm.power-button", Endpoint::Act(|| Action::PowerButton)),
    put("/vm.resize", Endpoint::Resize),
    put("/vm.resize-disk", Endpoint::ResizeDisk),
    put("/vm.set-link", Endpoint::SetLink),
    put("/vm.shutdown", Endpoint::Act(|| Action::Shutdown)),
    put("/vm.delete", Endpoint::Act(|| Action::Delete)),
];

/// The endpoint of a request.
///
/// # Errors
/// The response to a request for which there is none.
pub(super) fn route(method: &str, path: &str) -> Result<Endpoint, Response> {
    let found = path.strip_prefix(ROOT).and_then(|path| ROUTES.iter().find(|route| route.path == path));
    match found {
        None => Err(Response::error(Status::NotFound, &format!("there is no {path:?}"))),
        Some(route) if route.method != method => {
            let message = format!("{path} takes {} only", route.method);
            Err(Response::error(Status::NotAllowed, &message).allowing(route.method))
        }
        Some(route) => Ok(route.endpoint),
    }
}

/// Does what the endpoint does and waits for the outcome.
pub(super) fn respond(endpoint: Endpoint, body: &[u8], controller: &Controller) -> Response {
    let action = match endpoint {
        Endpoint::Create => match description(body) {
            Ok(spec) => Action::Create(Box::new(spec)),
            Err(response) => return response,
        },
        Endpoint::Resize => match serde_json::from_slice(body) {
            Ok(VmResize { desired_balloon: None, balloon_statistics_period: None }) => {
                let message =
                    "vm.resize: no new size: send desired_balloon, the only one that can be changed";
                return Response::error(Status::BadRequest, message);
            }
            Ok(VmResize { desired_balloon: bytes, balloon_statistics_period: statistics_period }) => {
                Action::ChangeBalloon { bytes, statistics_period }
            }
            Err(error) => return Response::error(Status::BadRequest, &format!("vm.resize: {error}")),
        },
        Endpoint::ResizeDisk => match serde_json::from_slice(body) {
            Ok(VmResizeDisk { id, desired_size: bytes }) => Action::ResizeDisk { id, bytes },
            Err(error) => return Response::error(Status::BadRequest, &format!("vm.resize-disk: {error}")),
        },
        Endpoint::SetLink => match serde_json::from_slice(body) {
            Ok(VmSetLink { id, up }) => Action::SetLink { id, up },
            Err(error) => return Response::error(Status::BadRequest, &format!("vm.set-link: {error}")),
        },
        Endpoint::Ping | Endpoint::Act(_) if !body.is_empty() => {
            return Response::error(Status::BadRequest, "this request takes no body");
        }
        Endpoint::Ping => return ping(),
        Endpoint::Act(action) => action(),
    };
    match controller.request(action) {
        Ok(reply) => answer(reply),
        Err(error) => Response::error(status_of(&error), &error.to_string()),
    }
}

fn description(body: &[u8]) -> Result<MachineSpec, Response> {
    let refuse = |reason: String| Response::error(Status::BadRequest, &format!("vm.create: {reason}"));
    if body.is_empty() {
        return Err(refuse("no description: send a VmConfig as the body".to_owned()));
    }
    let config: VmConfig = serde_json::from_slice(body).map_err(|error| refuse(error.to_string()))?;
    MachineSpec::from_config(config, &mut random_mac).map_err(|error| refuse(error.to_string()))
}

fn ping() -> Response {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Response::json(&VmmPingResponse {
        build_version: format!("vireo-vmm {version}"),
        version,
        pid: std::process::id().into(),
        features: Vec::new(),
    })
}

fn answer(reply: Reply) -> Response {
    match reply {
        Reply::Done => Response::done(),
        Reply::Info { spec, state, memory_actual_bytes, pseudo_terminals } => {
            let mut config = VmConfig::from(&*spec);
            for (device, path) in pseudo_terminals {
                if let Some(file) = file_of(&mut config, &spec, device) {
                    *file = Some(path);
                }
            }
            let state = match state {
                VmState::Created => wire::VmState::Created,
                VmState::Running => wire::VmState::Running,
                VmState::Paused => wire::VmState::Paused,
            };
            Response::json(&VmInfo { config, state, memory_actual_size: memory_actual_bytes })
        }
        Reply::Counters(devices) => {
            let counters = devices.into_iter().map(|(device, counters)| {
                (device, counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            });
            Response::json(&counters.collect::<wire::VmCounters>())
        }
    }
}

/// Where a character device's path is told. Port 0 of the console is `console` if it has no name.
fn file_of<'a>(
    config: &'a mut VmConfig,
    spec: &MachineSpec,
    device: CharacterDevice,
) -> Option<&'a mut Option<std::path::PathBuf>> {
    let first_is_hvc0 = spec.console_ports.first().is_some_and(|port| port.name.is_none());
    match device {
        CharacterDevice::Serial => config.serial.as_mut().map(|serial| &mut serial.file),
        CharacterDevice::ConsolePort(0) if first_is_hvc0 => {
            config.console.as_mut().map(|console| &mut console.file)
        }
        CharacterDevice::ConsolePort(index) => {
            let index = index.checked_sub(usize::from(first_is_hvc0))?;
            config.console_ports.as_mut()?.get_mut(index).map(|port| &mut port.file)
        }
    }
}

fn status_of(error: &ControlError) -> Status {
    match error {
        ControlError::NotCreated => Status::NotFound,
        ControlError::AlreadyCreated | ControlError::WrongState { .. } => Status::NotAllowed,
        ControlError::Failed(_) => Status::InternalError,
        ControlError::Ending => Status::Unavailable,
    }
}
