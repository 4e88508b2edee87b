//! What arguments, replies and events have in common: references to objects, typed parameters, records of lists.
//!
//! Source of names, order and types of fields: libvirt's src/remote/remote_protocol.x (versions 9 to 11).
#![expect(missing_docs, reason = "fields have the protocol's own names")]

use crate::limits::*;
use crate::xdr::{Opaque, Reader, STRING_MAX, Uuid, Xdr, XdrError, structures};

structures! {
    pub struct RemoteDomain { name: String, uuid: Uuid, id: i32 }
    pub struct VcpuInfo { number: u32, state: i32, cpu_time: u64, cpu: i32 }
    pub struct RemoteNetwork { name: String, uuid: Uuid }
    pub struct RemoteStoragePool { name: String, uuid: Uuid }
    pub struct RemoteStorageVol { pool: String, name: String, key: String }
    pub struct DomainMemoryStat { tag: i32, val: u64 }
    pub struct RemoteDomainSnapshot { name: String, dom: RemoteDomain }
    pub struct NodeCpuStatistic { field: String, value: u64 }
    pub struct NodeMemoryStatistic { field: String, value: u64 }
    pub struct DomainDiskError { disk: String, error: i32 }
    /// One label of a domain. Texts of this type travel one character a word.
    pub struct DomainSecurityLabel { label: Vec<i8> [SECURITY_LABEL_MAX], enforcing: i32 }
    pub struct RemoteInterface { name: String, mac: String }
    pub struct RemoteNodeDevice { name: String }
    pub struct RemoteNwFilter { name: String, uuid: Uuid }
    pub struct RemoteSecret { uuid: Uuid, usage_type: i32, usage_id: String }
    pub struct NetworkDhcpLease {
        iface: String,
        expirytime: i64,
        kind: i32,
        mac: Option<String>,
        iaid: Option<String>,
        ipaddr: String,
        prefix: u32,
        hostname: Option<String>,
        clientid: Option<String>,
    }
    pub struct DomainStatsRecord {
        dom: RemoteDomain,
        params: Vec<TypedParam> [CONNECT_GET_ALL_DOMAIN_STATS_MAX],
    }
    pub struct DomainFsInfo {
        mountpoint: String,
        name: String,
        fstype: String,
        dev_aliases: Vec<String> [DOMAIN_FSINFO_DISKS_MAX],
    }
    pub struct DomainIoThreadInfo { io_thread_id: u32, cpumap: Opaque [CPUMAP_MAX] }
    pub struct DomainInterface {
        name: String,
        hwaddr: Option<String>,
        addrs: Vec<DomainIpAddr> [DOMAIN_IP_ADDR_MAX],
    }
    pub struct DomainIpAddr { kind: i32, addr: String, prefix: u32 }
    pub struct RemoteNwFilterBinding { portdev: String, filtername: String }
    pub struct RemoteNetworkPort { net: RemoteNetwork, uuid: Uuid }
    pub struct RemoteDomainCheckpoint { name: String, dom: RemoteDomain }
    pub struct DomainEventGraphicsAddress { family: i32, node: String, service: String }
    pub struct DomainEventGraphicsIdentity { kind: String, name: String }
    pub struct TypedParam { field: String, value: TypedValue }
}

/// The value of a typed parameter (`remote_typed_param_value`; the numbers are virTypedParameterType's).
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    Int(i32),
    UInt(u32),
    LLong(i64),
    ULLong(u64),
    Double(f64),
    Boolean(bool),
    String(String),
}

impl TypedParam {
    /// A parameter named `field`.
    pub fn new(field: impl Into<String>, value: TypedValue) -> Self {
        Self { field: field.into(), value }
    }
}

impl Xdr for TypedValue {
    const MIN_BYTES: usize = 8;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        let number: i32 = match self {
            Self::Int(_) => 1,
            Self::UInt(_) => 2,
            Self::LLong(_) => 3,
            Self::ULLong(_) => 4,
            Self::Double(_) => 5,
            Self::Boolean(_) => 6,
            Self::String(_) => 7,
        };
        number.encode(out)?;
        match self {
            Self::Int(value) => value.encode(out),
            Self::UInt(value) => value.encode(out),
            Self::LLong(value) => value.encode(out),
            Self::ULLong(value) => value.encode(out),
            Self::Double(value) => value.encode(out),
            Self::Boolean(value) => value.encode(out),
            Self::String(value) => value.encode(out),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(match u32::decode(reader)? {
            1 => Self::Int(Xdr::decode(reader)?),
            2 => Self::UInt(Xdr::decode(reader)?),
            3 => Self::LLong(Xdr::decode(reader)?),
            4 => Self::ULLong(Xdr::decode(reader)?),
            5 => Self::Double(Xdr::decode(reader)?),
            6 => Self::Boolean(Xdr::decode(reader)?),
            7 => Self::String(Xdr::decode(reader)?),
            value => return Err(XdrError::Invalid { what: "parameter type", value: u64::from(value) }),
        })
    }
}

/// The processor's model in NODE_GET_INFO (`char model[32]`): each character is a word of its own, the rest is zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelName([i8; 32]);

impl ModelName {
    /// `name`, cut to the 31 bytes that there is room for.
    pub fn new(name: &str) -> Self {
        let mut model = [0; 32];
        for (to, from) in model[..31].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        Self(model)
    }

    /// The name.
    pub fn text(&self) -> String {
        text(&self.0)
    }
}

impl Xdr for ModelName {
    const MIN_BYTES: usize = 128;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        self.0.iter().try_for_each(|character| character.encode(out))
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let mut model = [0; 32];
        for character in &mut model {
            *character = i8::decode(reader)?;
        }
        Ok(Self(model))
    }
}

/// A text as the characters of a `char<>` field, with the NUL that libvirt puts at its end.
pub fn characters(text: &str) -> Vec<i8> {
    text.bytes().map(u8::cast_signed).chain([0]).collect()
}

/// The text in the characters of a `char<>` field, up to the first NUL.
pub fn text(characters: &[i8]) -> String {
    let bytes: Vec<u8> =
        characters.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The error structure (`remote_error` and `virNetMessageError`); [`crate::RpcError`] is what programs use.
pub(crate) mod error_structure {
    use super::{RemoteDomain, RemoteNetwork, structures};

    structures! {
        pub(crate) struct WireError {
            code: i32, domain: i32, message: Option<String>, level: i32, dom: Option<RemoteDomain>,
            str1: Option<String>, str2: Option<String>, str3: Option<String>, int1: i32, int2: i32,
            net: Option<RemoteNetwork>,
        }
    }
}

const _: () = assert!(STRING_MAX == 4 << 20);
