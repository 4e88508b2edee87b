//! Errors as libvirt's clients know them: a code, the part that reports it, and a message.
//!
//! Numbers: include/libvirt/virterror.h. The messages are those that libvirt's public interface is known for, because people
//! read them; programs compare only code and domain.

use std::fmt;

use crate::types::error_structure::WireError;
use crate::xdr::{STRING_MAX, Xdr, XdrError};

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $(: $prefix:literal)?,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A number that has no name here, as other daemons may send.
            Other(i32),
        }

        impl $name {
            /// The number on the wire.
            pub fn number(self) -> i32 {
                match self { $(Self::$variant => $number,)* Self::Other(number) => number }
            }

            /// The meaning of a number.
            pub fn from_number(number: i32) -> Self {
                match number { $($number => Self::$variant,)* other => Self::Other(other) }
            }
        }
    };
}

numbers! {
    /// What went wrong (virErrorNumber).
    ErrorCode {
        /// A fault of the daemon itself.
        InternalError = 1,
        /// Out of memory.
        NoMemory = 2,
        /// The daemon can't do this at all.
        NoSupport = 3,
        /// No connection to a hypervisor.
        NoConnect = 5,
        /// An argument makes no sense.
        InvalidArgument = 8,
        /// It was tried and failed.
        OperationFailed = 9,
        /// A document without a name.
        NoName = 21,
        /// Such a domain exists.
        DomainExists = 28,
        /// The connection is read-only.
        OperationDenied = 29,
        /// A file can't be opened.
        OpenFailed = 30,
        /// A document lacks or contradicts something.
        XmlError = 27,
        /// Such a network exists.
        NetworkExists = 37,
        /// A system call failed.
        SystemError = 38,
        /// A packet is wrong.
        Rpc = 39,
        /// No such domain.
        NoDomain = 42,
        /// No such network.
        NoNetwork = 43,
        /// The client is not who it has to be.
        AuthFailed = 45,
        /// No such pool.
        NoStoragePool = 49,
        /// No such volume.
        NoStorageVolume = 50,
        /// No such device of the host.
        NoNodeDevice = 53,
        /// The object is in the wrong state.
        OperationInvalid = 55,
        /// No such interface of the host.
        NoInterface = 57,
        /// No such network filter.
        NoNetworkFilter = 62,
        /// No such secret.
        NoSecret = 66,
        /// The definition asks for what can't be done.
        ConfigUnsupported = 67,
        /// It took too long.
        OperationTimeout = 68,
        /// No such snapshot.
        NoSnapshot = 72,
        /// The stream is gone or of the wrong kind.
        InvalidStream = 73,
        /// An argument asks for what can't be done.
        ArgumentUnsupported = 74,
        /// Somebody ended it.
        OperationAborted = 78,
        /// The domain has no such metadata.
        NoMetadata = 80,
        /// A number is too large.
        Overflow = 82,
        /// The object can't do this.
        OperationUnsupported = 84,
        /// The guest agent doesn't answer.
        AgentUnresponsive = 86,
        /// In use.
        ResourceBusy = 87,
        /// Not allowed for this user.
        AccessDenied = 88,
        /// Such a volume exists.
        StorageVolumeExists = 90,
        /// The processor can't do that.
        CpuIncompatible = 91,
        /// The domain has no such device.
        DeviceMissing = 99,
        /// The network has no such port.
        NoNetworkPort = 107,
        /// Nobody knows the guest's name.
        NoHostname = 108,
    }
}

numbers! {
    /// Which part reports it (virErrorDomain).
    ErrorDomain {
        /// No part in particular.
        None = 0,
        /// Reading XML.
        Xml = 5,
        /// The protocol.
        Rpc = 7,
        /// The hypervisor.
        Qemu = 10,
        /// The remote driver, which is the client's side.
        Remote = 13,
        /// Storage.
        Storage = 18,
        /// Networks.
        Network = 19,
        /// Definitions of domains.
        Domain = 20,
        /// The host.
        NodeDevice = 22,
        /// Interfaces of the host.
        Interface = 26,
        /// Secrets.
        Secret = 30,
        /// Processors.
        Cpu = 31,
        /// Snapshots.
        DomainSnapshot = 35,
        /// Streams.
        Streams = 38,
        /// Events.
        Event = 40,
    }
}

/// An error that goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// What went wrong.
    pub code: ErrorCode,
    /// Which part reports it.
    pub domain: ErrorDomain,
    /// The whole message, as a person reads it.
    pub message: String,
    /// What the message says after its prefix (`str2`), where there is a prefix.
    pub details: Option<String>,
}

/// Errors on the wire have this level (VIR_ERR_ERROR).
const LEVEL_ERROR: i32 = 2;

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $code:ident $domain:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(details: impl Into<String>) -> Self {
            Self::new(ErrorCode::$code, ErrorDomain::$domain, $prefix, details.into())
        }
    )*};
}

impl RpcError {
    /// An error whose message is `prefix` and `details`.
    pub fn new(code: ErrorCode, domain: ErrorDomain, prefix: &str, details: String) -> Self {
        let message = if prefix.is_empty() { details.clone() } else { format!("{prefix}: {details}") };
        Self { code, domain, message, details: Some(details) }
    }

    /// The same, reported by another part.
    #[must_use]
    pub fn from_part(mut self, domain: ErrorDomain) -> Self {
        self.domain = domain;
        self
    }

    constructors! {
        /// A fault of the daemon: `internal error: ...`.
        internal = InternalError Qemu "internal error";
        /// The daemon can't do `function` (a public name, [`crate::Procedure::name`]).
        not_supported = NoSupport Qemu "this function is not supported by the connection driver";
        /// An argument makes no sense.
        invalid_argument = InvalidArgument Qemu "invalid argument";
        /// It was tried and failed.
        operation_failed = OperationFailed Qemu "operation failed";
        /// The object is in the wrong state, as in "domain is not running".
        invalid_operation = OperationInvalid Qemu "Requested operation is not valid";
        /// The object can't do this.
        unsupported_operation = OperationUnsupported Qemu "Operation not supported";
        /// The definition asks for what can't be done.
        unsupported_configuration = ConfigUnsupported Qemu "unsupported configuration";
        /// An argument asks for what can't be done.
        unsupported_argument = ArgumentUnsupported Qemu "argument unsupported";
        /// No such domain, as in "no domain with matching name 'x'".
        no_domain = NoDomain Qemu "Domain not found";
        /// No such network.
        no_network = NoNetwork Network "Network not found";
        /// The network has no such port.
        no_network_port = NoNetworkPort Network "network port not found";
        /// No such pool.
        no_storage_pool = NoStoragePool Storage "Storage pool not found";
        /// No such volume.
        no_storage_volume = NoStorageVolume Storage "Storage volume not found";
        /// No such snapshot.
        no_snapshot = NoSnapshot Qemu "Domain snapshot not found";
        /// No such metadata.
        no_metadata = NoMetadata Domain "metadata not found";
        /// The domain has no such device.
        no_device = DeviceMissing Qemu "device not found";
        /// Such a volume exists; the whole message is given.
        storage_volume_exists = StorageVolumeExists Storage "";
        /// A document lacks or contradicts something.
        xml = XmlError Domain "XML error";
        /// A document without a name; the whole message is given.
        no_name = NoName Domain "";
        /// It took too long.
        timeout = OperationTimeout Qemu "Timed out during operation";
        /// The guest agent doesn't answer.
        agent_unresponsive = AgentUnresponsive Qemu "Guest agent is not responding";
        /// In use.
        busy = ResourceBusy Qemu "resource busy";
        /// Somebody ended it.
        aborted = OperationAborted Qemu "operation aborted";
        /// Not allowed for this user.
        access_denied = AccessDenied Qemu "access denied";
        /// The connection is read-only: the whole of what is forbidden is given.
        denied = OperationDenied Qemu "operation forbidden";
        /// A system call failed; the whole message is given.
        system = SystemError Qemu "";
        /// The protocol is not kept; the whole message is given.
        rpc = Rpc Rpc "";
        /// The stream is gone or of the wrong kind.
        invalid_stream = InvalidStream Streams "invalid stream pointer";
    }

    /// A read-only connection may not call `function`.
    pub fn read_only(function: &str) -> Self {
        Self::denied(format!("read only access prevents {function}"))
    }

    /// There is no such procedure. The words at the start are those by which clients know that they must do without it.
    pub fn unknown_procedure(number: u32) -> Self {
        Self::rpc(format!("unknown procedure: {number}"))
    }

    pub(crate) fn wire(&self) -> WireError {
        // A message that is too long for the wire would be no error at all.
        let cut = |text: &str| {
            let end = text.floor_char_boundary(STRING_MAX.min(16_384));
            text[..end].replace('\0', " ")
        };
        WireError {
            code: self.code.number(),
            domain: self.domain.number(),
            message: Some(cut(&self.message)),
            level: LEVEL_ERROR,
            dom: None,
            str1: Some("%s".to_owned()),
            str2: self.details.as_deref().map(cut),
            str3: None,
            int1: -1,
            int2: -1,
            net: None,
        }
    }

    /// Reads the body of an error reply.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, XdrError> {
        let wire = WireError::from_bytes(bytes)?;
        let code = ErrorCode::from_number(wire.code);
        Ok(Self {
            code,
            domain: ErrorDomain::from_number(wire.domain),
            message: wire.message.unwrap_or_else(|| format!("error {} without a message", wire.code)),
            details: wire.str2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let error = RpcError::no_domain("no domain with matching name 'x'");
        let mut bytes = Vec::new();
        error.wire().encode(&mut bytes).unwrap();
        assert_eq!(bytes[..8], [0, 0, 0, 42, 0, 0, 0, 10]);
        let read = RpcError::from_bytes(&bytes).unwrap();
        assert_eq!(read, error);
        assert_eq!(read.to_string(), "Domain not found: no domain with matching name 'x'");
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_and_not_lost() {
        let error = RpcError::internal("ä".repeat(STRING_MAX));
        let mut bytes = Vec::new();
        error.wire().encode(&mut bytes).unwrap();
        assert!(bytes.len() < 64 << 10);
        assert_eq!(RpcError::from_bytes(&bytes).unwrap().code, ErrorCode::InternalError);
    }

    #[test]
    fn numbers_without_a_name_are_kept() {
        assert_eq!(ErrorCode::from_number(1234).number(), 1234);
        assert_eq!(ErrorCode::from_number(42), ErrorCode::NoDomain);
    }
}
