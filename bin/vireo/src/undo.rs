//! What a verb has made so far, so that none of it stays when a later step fails; and signals, which are such a failure.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{
    DomainDestroy, DomainUndefineFlags, NetworkDestroy, NetworkUndefine, StoragePoolDelete,
    StoragePoolDestroy, StoragePoolUndefine, StorageVolDelete,
};
use libvirt_rpc::types::{RemoteDomain, RemoteNetwork, RemoteStoragePool, RemoteStorageVol};

use crate::connection::{Error, Exit};
use crate::output::harmless;

/// Files of firmware's variables stay: they are made, and removed, on their own (VIR_DOMAIN_UNDEFINE_KEEP_NVRAM).
const KEEP_NVRAM: u32 = 8;

/// Something that was made.
#[derive(Debug)]
pub(crate) enum Made {
    /// A definition.
    Domain(RemoteDomain),
    /// A domain that was started.
    Running(RemoteDomain),
    /// A volume.
    Volume(RemoteStorageVol),
    /// A pool's definition.
    PoolDefinition(RemoteStoragePool),
    /// A pool's directory, which is empty again by then.
    PoolDirectory(RemoteStoragePool),
    /// A pool that was started.
    ActivePool(RemoteStoragePool),
    /// A network's definition.
    NetworkDefinition(RemoteNetwork),
    /// A network that was started.
    ActiveNetwork(RemoteNetwork),
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(domain) => write!(f, "the definition of domain {}", harmless(&domain.name)),
            Self::Running(domain) => write!(f, "the running domain {}", harmless(&domain.name)),
            Self::Volume(volume) => write!(f, "the volume {}", harmless(&volume.key)),
            Self::PoolDefinition(pool) => write!(f, "the definition of pool {}", harmless(&pool.name)),
            Self::PoolDirectory(pool) => write!(f, "the directory of pool {}", harmless(&pool.name)),
            Self::ActivePool(pool) => write!(f, "the started pool {}", harmless(&pool.name)),
            Self::NetworkDefinition(network) => {
                write!(f, "the definition of network {}", harmless(&network.name))
            }
            Self::ActiveNetwork(network) => write!(f, "the started network {}", harmless(&network.name)),
        }
    }
}

impl Made {
    fn undo(&self, connection: &mut Connection) -> Result<(), String> {
        let result: Result<(), ClientError> = match self {
            Self::Domain(domain) => {
                connection.call(&DomainUndefineFlags { dom: domain.clone(), flags: KEEP_NVRAM })
            }
            Self::Running(domain) => connection.call(&DomainDestroy { dom: domain.clone() }),
            Self::Volume(volume) => connection.call(&StorageVolDelete { vol: volume.clone(), flags: 0 }),
            Self::PoolDefinition(pool) => connection.call(&StoragePoolUndefine { pool: pool.clone() }),
            Self::PoolDirectory(pool) => connection.call(&StoragePoolDelete { pool: pool.clone(), flags: 0 }),
            Self::ActivePool(pool) => connection.call(&StoragePoolDestroy { pool: pool.clone() }),
            Self::NetworkDefinition(network) => connection.call(&NetworkUndefine { net: network.clone() }),
            Self::ActiveNetwork(network) => connection.call(&NetworkDestroy { net: network.clone() }),
        };
        result.map_err(|error| error.to_string())
    }
}

/// What was made, in order, and what is to go in any case.
#[derive(Debug)]
pub(crate) struct Undo {
    made: Vec<Made>,
    /// Volumes whose content is being replaced: that can't be taken back, unless they have been made here and go.
    overwritten: Vec<RemoteStorageVol>,
    /// Transient pools through which files outside of pools are reached.
    passing: Vec<RemoteStoragePool>,
    signal: Arc<AtomicUsize>,
}

impl Undo {
    /// Nothing made. From now on signals that would end the process end the work at its next step instead.
    pub(crate) fn new() -> Result<Self, Error> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM]
        {
            let value = usize::try_from(number).unwrap_or_default();
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value).map_err(|error| {
                Error::trouble(Exit::Failed, format!("cannot wait for signals: {error}"), "")
            })?;
        }
        Ok(Self { made: Vec::new(), overwritten: Vec::new(), passing: Vec::new(), signal })
    }

    /// Remembers something.
    pub(crate) fn push(&mut self, made: Made) {
        self.made.push(made);
    }

    /// Takes the latest back at once, for an attempt that is followed by another.
    ///
    /// # Errors
    /// It stays.
    pub(crate) fn take_back(&mut self, connection: &mut Connection) -> Result<(), Error> {
        let Some(made) = self.made.pop() else { return Ok(()) };
        made.undo(connection)
            .map_err(|reason| Error::trouble(Exit::Failed, format!("left behind: {made}: {reason}"), ""))
    }

    /// Remembers a pool that is to go in any case.
    pub(crate) fn pass_through(&mut self, pool: RemoteStoragePool) {
        self.passing.push(pool);
    }

    /// Remembers that a volume's content is about to be replaced.
    pub(crate) fn overwrite(&mut self, volume: &RemoteStorageVol) {
        self.overwritten.push(volume.clone());
    }

    /// Whether a signal has come.
    pub(crate) fn interrupted(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// An error when a signal has come: to be called between steps.
    ///
    /// # Errors
    /// A signal has come.
    pub(crate) fn step(&self) -> Result<(), Error> {
        if self.interrupted() {
            return Err(Error::trouble(Exit::Failed, "interrupted".to_owned(), ""));
        }
        Ok(())
    }

    /// Ends the verb: with an error, everything that was made goes, the latest first, unless it is to be kept. An error that is
    /// a signal's becomes the exit code that shells know.
    ///
    /// # Errors
    /// The verb's own.
    pub(crate) fn end<T>(
        mut self,
        connection: &mut Connection,
        result: Result<T, Error>,
        keep: bool,
    ) -> Result<Result<T, ExitCode>, Error> {
        for pool in std::mem::take(&mut self.passing) {
            // It goes with the daemon at the latest.
            let _ = connection.call(&StoragePoolDestroy { pool });
        }
        let error = match result {
            Ok(done) => return Ok(Ok(done)),
            Err(error) => error,
        };
        let mut changed = keep && !self.made.is_empty();
        for made in self.made.iter().rev() {
            if keep {
                eprintln!("kept: {made}");
            } else if let Err(reason) = made.undo(connection) {
                eprintln!("left behind: {made}: {}", harmless(&reason));
                changed = true;
            }
        }
        let made_here = |volume: &RemoteStorageVol| {
            self.made.iter().any(|made| matches!(made, Made::Volume(made) if made.key == volume.key))
        };
        for volume in self.overwritten.iter().filter(|volume| !made_here(volume)) {
            eprintln!("left behind: the volume {} may have a part of the new content", harmless(&volume.key));
            changed = true;
        }
        match u8::try_from(self.signal.load(Ordering::Relaxed)) {
            Ok(signal @ 1..) => {
                eprintln!("interrupted: {}", if changed { "not completed" } else { "nothing was done" });
                Ok(Err(ExitCode::from(128 + signal)))
            }
            _ => Err(error),
        }
    }
}
