//! Requests to the VM driver and its answers: the one door through which API, command line and signals control a machine.

use std::path::PathBuf;
use std::sync::mpsc;

use machine_spec::MachineSpec;

/// Everything that can be asked of the driver. Matches are exhaustive: a new action does not compile until every side has decided.
#[derive(Debug)]
pub enum Action {
    /// Take a description; nothing is started.
    Create(Box<MachineSpec>),
    /// Build the machine and start its vCPUs.
    Boot,
    /// Build the machine; its vCPUs wait for [`Action::Resume`] before their first instruction.
    BootPaused,
    /// Stop every vCPU and drain every device.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Reset the machine and boot it again.
    Reboot,
    /// Press the ACPI power button.
    PowerButton,
    /// Send a non-maskable interrupt to every vCPU.
    Nmi,
    /// Stop the machine at once; its description stays and it can be booted again.
    Shutdown,
    /// Stop the machine and forget its description.
    Delete,
    /// The description and state.
    Info,
    /// Device counters.
    Counters,
    /// Change the balloon; what is absent stays.
    ChangeBalloon {
        /// How large it is to be, in bytes.
        bytes: Option<u64>,
        /// How often the guest's figures are renewed, in seconds.
        statistics_period: Option<u32>,
    },
    /// Make a disk larger.
    ResizeDisk {
        /// The disk's identifier.
        id: String,
        /// Its new size in bytes.
        bytes: u64,
    },
    /// Plug or pull the cable of a network interface.
    SetLink {
        /// The interface's identifier.
        id: String,
        /// Whether it is plugged in from now on.
        up: bool,
    },
    /// Stop everything and end the process.
    ShutdownVmm,
}

/// Where a machine is in its life (names of the control API).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Described, not running: before the first boot, and after a shutdown.
    Created,
    /// vCPUs run.
    Running,
    /// vCPUs are stopped, devices drained.
    Paused,
}

/// A device that may be on a pseudo-terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CharacterDevice {
    /// The serial port.
    Serial,
    /// A port of the virtio console, by its index in [`MachineSpec::console_ports`].
    ConsolePort(usize),
}

/// What the driver answers.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Answer to [`Action::Info`].
    Info {
        /// As given to [`Action::Create`].
        spec: Box<MachineSpec>,
        /// Where the machine is.
        state: VmState,
        /// Guest memory without what the balloon holds, in bytes.
        memory_actual_bytes: u64,
        /// The pseudo-terminals of the devices that have one.
        pseudo_terminals: Vec<(CharacterDevice, PathBuf)>,
    },
    /// Answer to [`Action::Counters`]: device identifier, counter, value.
    Counters(Vec<(String, Vec<(&'static str, u64)>)>),
}

/// Why the driver refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No machine has been created.
    #[error("no virtual machine has been created: send vm.create first")]
    NotCreated,
    /// There is a machine already.
    #[error("a virtual machine exists already: delete it first")]
    AlreadyCreated,
    /// The action does not fit the machine's state.
    #[error("cannot {action} a virtual machine that is {state:?}")]
    WrongState {
        /// What was asked.
        action: &'static str,
        /// Where the machine is.
        state: VmState,
    },
    /// The action was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The driver has ended.
    #[error("the virtual machine process is ending")]
    Ending,
}

/// A request on its way to the driver.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub action: Action,
    /// Where the answer goes.
    pub reply: mpsc::SyncSender<Result<Reply, ControlError>>,
}

/// The right to control the machine; any number of them, on any thread.
#[derive(Clone)]
pub struct Controller {
    post: std::sync::Arc<dyn Fn(Request) -> Result<(), Request> + Send + Sync>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller that posts requests by `post`, which hands a request back once the driver has ended.
    pub fn new(post: impl Fn(Request) -> Result<(), Request> + Send + Sync + 'static) -> Self {
        Self { post: std::sync::Arc::new(post) }
    }

    /// Asks and waits for the answer.
    pub fn request(&self, action: Action) -> Result<Reply, ControlError> {
        let (reply, answer) = mpsc::sync_channel(1);
        (self.post)(Request { action, reply }).map_err(|_| ControlError::Ending)?;
        answer.recv().unwrap_or(Err(ControlError::Ending))
    }
}
