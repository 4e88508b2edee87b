//! Which daemon this is: the host's, or a user's own.

use std::path::PathBuf;

/// Whose machines the daemon keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instance {
    /// The host's: runs as root, reached as `qemu:///system`.
    System,
    /// A user's own: runs without privileges, reached as `qemu:///session`.
    Session,
}

impl Instance {
    /// What a daemon of this user is.
    pub fn of_user(uid: u32) -> Self {
        if uid == 0 { Self::System } else { Self::Session }
    }

    /// The URI by which clients call it. Programs decide by its scheme which defaults they choose, so it is QEMU's.
    pub fn uri(self) -> &'static str {
        match self {
            Self::System => "qemu:///system",
            Self::Session => "qemu:///session",
        }
    }
}

/// What the daemon is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose daemon it is.
    pub instance: Instance,
    /// What is remembered lies here.
    pub state_directory: PathBuf,
    /// Sockets and what belongs to running machines lie here.
    pub runtime_directory: PathBuf,
    /// A directory besides the runtime one in which to listen, for clients that know no other.
    pub further_sockets: Option<PathBuf>,
    /// The program that runs a machine.
    pub machine_program: PathBuf,
    /// The program that serves a network when it is called with `network-services`: vireod itself.
    pub services_program: PathBuf,
    /// Whether a state directory that is new gets the network `default`.
    pub default_network: bool,
}
