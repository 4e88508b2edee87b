//! What a verb has made so far, so that none of it stays when a later step fails; and signals, which are such a failure.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{
    DomainDestroy, DomainUndefineFlags, StoragePoolDelete, StoragePoolDestroy, StoragePoolUndefine,
    StorageVolDelete,
};
use libvirt_rpc::types::{RemoteDomain, RemoteStoragePool, RemoteStorageVol};

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
        };
        result.map_err(|error| error.to_string())
    }
}

/// What was made, in order, and what is to go in any case.
#[derive(Debug)]
pub(crate) struct Undo {
    made: Vec<Made>,
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
        Ok(Self { made: Vec::new(), passing: Vec::new(), signal })
    }

    /// Remembers something.
    pub(crate) fn push(&mut self, made: Made) {
        self.made.push(made);
    }

    /// Remembers a pool that is to go in any case.
    pub(crate) fn pass_through(&mut self, pool: RemoteStoragePool) {
        self.passing.push(pool);
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
        for made in self.made.iter().rev() {
            if keep {
                eprintln!("kept: {made}");
            } else if let Err(reason) = made.undo(connection) {
                eprintln!("left behind: {made}: {}", harmless(&reason));
            }
        }
        match u8::try_from(self.signal.load(Ordering::Relaxed)) {
            Ok(signal @ 1..) => {
                eprintln!("interrupted: {}", if keep { "not completed" } else { "nothing was done" });
                Ok(Err(ExitCode::from(128 + signal)))
            }
            _ => Err(error),
        }
    }
}
