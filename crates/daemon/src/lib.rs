//! The daemon: definitions of domains, networks and pools, the processes of running machines, events, and libvirt's protocol.
//!
//! It owns what must outlive a guest's process and a client's connection. It trusts its own state directory and the kernel;
//! clients, their documents and the processes of guests are checked. It can be killed at any moment: what it has answered is in
//! the store, guests run on, and the next daemon finds them.
//!
//! Everything is a task of one tokio runtime. What blocks (disks, other programs) runs on its blocking threads, so that nobody
//! waits for somebody else's work.

mod console;
pub mod control_group;
pub mod domain;
mod guest_agent;
mod host_network;
mod instance;
pub mod machine_process;
mod network;
mod service;
mod sockets;
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use libvirt_rpc::server::{Access, Limits, Server};

use self::domain::DomainError;
pub use self::instance::{Instance, Settings};
use self::service::Daemon;
pub use self::sockets::SocketError;
use self::sockets::Sockets;
use self::store::{Store, StoreError};

/// How long clients' calls may go on when the daemon is told to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it remembers can't be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody could reach it.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Finding what runs has failed.
    #[error("finding what was there before: {0}")]
    Interrupted(String),
}

/// A daemon that answers. Machines do not depend on it: dropping it ends connections and nothing else.
#[derive(Debug)]
pub struct Running {
    server: Server<Daemon>,
    /// Removed when they are dropped, after the last connection.
    sockets: Sockets,
}

impl Running {
    /// Takes the state directory, finds what runs, and listens.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let new = !store::is_in(&settings.state_directory);
        let (store, records) = Store::open(&settings.state_directory)?;
        let sockets = Sockets::open(&settings)?;
        let daemon = tokio::task::spawn_blocking(move || {
            let default_network = new && settings.default_network;
            let daemon = Arc::new(Daemon::restore(settings, store, records)?);
            if default_network {
                daemon.define_default_network();
            }
            daemon.start_marked();
            Ok::<_, DomainError>(daemon)
        });
        let daemon = daemon.await.map_err(|error| StartError::Interrupted(error.to_string()))?;
        let daemon = daemon.map_err(|error| StartError::Interrupted(error.to_string()))?;
        let later = Arc::downgrade(&daemon);
        let server = Server::new(daemon, service::table(), Limits::default());
        for (listener, access) in sockets.listeners()? {
            let path = sockets.first().to_owned();
            server
                .listen(listener, access)
                .map_err(|source| SocketError::host(&path, "listen on it", source))?;
        }
        // Whoever asks first does not have to wait for all of them.
        tokio::task::spawn_blocking(move || Daemon::read_ahead(&later));
        Ok(Self { server, sockets })
    }

    /// The socket at which everything can be asked.
    pub fn socket(&self) -> &std::path::Path {
        self.sockets.first()
    }

    /// Lets calls that are under way end, then closes every connection.
    pub async fn shut_down(self) {
        let Self { server, sockets } = self;
        server.shut_down(FAREWELL).await;
        drop(sockets);
    }
}

/// The right of clients of a socket.
fn access(read_only: bool) -> Access {
    if read_only { Access::ReadOnly } else { Access::ReadWrite }
}
