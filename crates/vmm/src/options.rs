//! What the process is started with.

use std::path::PathBuf;

use machine_spec::MachineSpec;

/// What the VMM is to do. At least one of the first two is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmmOptions {
    /// The machine to build and boot at once. Without it the process waits for `vm.create` and `vm.boot`.
    pub spec: Option<MachineSpec>,
    /// Where the control API listens, see [`crate::api`]. Without it the machine is on its own: it ends when the guest
    /// powers off or a signal arrives.
    pub api_socket: Option<PathBuf>,
    /// A file to which the machine's life is appended, one line of JSON an event.
    pub event_monitor: Option<PathBuf>,
}
