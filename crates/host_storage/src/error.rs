//! What can go wrong, in the families that libvirt's error codes have.

use std::io;
use std::path::{Path, PathBuf};

use block_io::BlockError;
use block_io::operations::OperationError;
use libvirt_xml::XmlError;
use rustix::io::Errno;

/// Why an operation on pools or volumes failed. Each variant names the code that libvirt has for it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// `VIR_ERR_NO_STORAGE_POOL`.
    #[error("no storage pool with matching {0}")]
    NoSuchPool(String),
    /// `VIR_ERR_NO_STORAGE_VOL`.
    #[error("no storage vol with matching {0}")]
    NoSuchVolume(String),
    /// `VIR_ERR_OPERATION_FAILED`: another pool has the name, the UUID or the storage.
    #[error("{0}")]
    PoolConflict(String),
    /// `VIR_ERR_STORAGE_VOL_EXIST`.
    #[error("storage volume '{0}' exists already")]
    VolumeExists(String),
    /// `VIR_ERR_OPERATION_INVALID`.
    #[error("storage pool '{0}' is already active")]
    AlreadyActive(String),
    /// `VIR_ERR_OPERATION_INVALID`.
    #[error("storage pool '{0}' is not active")]
    NotActive(String),
    /// `VIR_ERR_OPERATION_INVALID`: the object's state does not allow it.
    #[error("{0}")]
    InvalidOperation(String),
    /// `VIR_ERR_OPERATION_INVALID`: somebody else uses the object, and is named.
    #[error("{object} is in use: {holder}")]
    InUse {
        /// What is used, as in "volume 'disk'".
        object: String,
        /// By whom.
        holder: String,
    },
    /// `VIR_ERR_INVALID_ARG`.
    #[error("{0}")]
    InvalidArgument(String),
    /// `VIR_ERR_OPERATION_UNSUPPORTED`.
    #[error("{0}")]
    Unsupported(String),
    /// `VIR_ERR_STORAGE_POOL_BUILT`: something is on the device already.
    #[error("{0}")]
    AlreadyBuilt(String),
    /// `VIR_ERR_XML_ERROR` or, by its fault, `VIR_ERR_CONFIG_UNSUPPORTED`.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// `VIR_ERR_CONFIG_UNSUPPORTED`: a program of the host is missing.
    #[error("the program {program} is not installed: it comes with the package {package}")]
    ProgramMissing {
        /// Its name.
        program: String,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// `VIR_ERR_INTERNAL_ERROR`: a program of the host failed.
    #[error("{command} failed ({status}): {output}")]
    ProgramFailed {
        /// What was run, with arguments.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// `VIR_ERR_SYSTEM_ERROR`.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System {
        /// What was tried, as in "open".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// `VIR_ERR_OPERATION_FAILED`: an image could not be made or used.
    #[error(transparent)]
    Image(BlockError),
    /// `VIR_ERR_OPERATION_FAILED`: copying failed.
    #[error(transparent)]
    Copy(OperationError),
    /// `VIR_ERR_OPERATION_ABORTED`: whoever watches the progress ended it.
    #[error("interrupted")]
    Interrupted,
}

impl From<OperationError> for StorageError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Interrupted => Self::Interrupted,
            other => Self::Copy(other),
        }
    }
}

impl StorageError {
    /// A system call failed on a path.
    pub(crate) fn system(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System { operation, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// As [`StorageError::system`], as a function for `map_err`.
    pub(crate) fn on(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::system(operation, path, errno)
    }

    /// A lock on a volume was not to be had.
    pub(crate) fn lock(volume: &str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::ResourceBusy {
            Self::InUse { object: format!("volume '{volume}'"), holder: error.to_string() }
        } else {
            Self::system("lock", volume, error)
        }
    }

    /// An image did what it did under a path that means nothing to people; `path` is what they call it.
    pub(crate) fn image(error: BlockError, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        if error.source.kind() == io::ErrorKind::ResourceBusy {
            let object = format!("volume '{}'", path.display());
            return Self::InUse { object, holder: error.source.to_string() };
        }
        Self::Image(BlockError { path: path.to_owned(), ..error })
    }
}
