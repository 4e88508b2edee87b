//! What agents are asked, with the types of QEMU's qga/qapi-schema.json.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{ANSWER, AgentError, GuestAgent, LONGEST};

/// How a guest is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownMode {
    /// Power off.
    PowerDown,
    /// Start anew.
    Reboot,
}

/// An interface in the guest (GuestNetworkInterface).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Interface {
    /// Its name there.
    pub(crate) name: String,
    /// Its MAC address.
    pub(crate) hardware_address: Option<String>,
    /// Its addresses.
    #[serde(default)]
    pub(crate) ip_addresses: Vec<IpAddress>,
}

/// An address (GuestIpAddress).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct IpAddress {
    /// As text.
    pub(crate) ip_address: String,
    /// `ipv4` or `ipv6`.
    pub(crate) ip_address_type: String,
    /// Length of the network's prefix, bits.
    pub(crate) prefix: u32,
}

/// A mounted file system (GuestFilesystemInfo).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FileSystem {
    /// The device's name.
    pub(crate) name: String,
    /// Where it is mounted.
    pub(crate) mountpoint: String,
    /// Kind.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// In use, bytes.
    pub(crate) used_bytes: Option<u64>,
    /// Size, bytes.
    pub(crate) total_bytes: Option<u64>,
    /// What it lies on.
    #[serde(default)]
    pub(crate) disk: Vec<Disk>,
}

/// Where a disk is (GuestDiskAddress).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Disk {
    /// Its serial number.
    pub(crate) serial: Option<String>,
    /// Its device node.
    pub(crate) dev: Option<String>,
}

/// A disk or partition (GuestDiskInfo).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GuestDisk {
    /// Its device node.
    pub(crate) name: String,
    /// Whether it is a part of another.
    pub(crate) partition: bool,
    /// What it is made of.
    #[serde(default)]
    pub(crate) dependencies: Vec<String>,
    /// Where it is.
    pub(crate) address: Option<Disk>,
    /// Another name in the guest.
    pub(crate) alias: Option<String>,
}

/// Somebody who is logged in (GuestUser).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct User {
    /// Name.
    pub(crate) user: String,
    /// Of Windows.
    pub(crate) domain: Option<String>,
    /// Since when, seconds since 1970.
    pub(crate) login_time: f64,
}

/// What runs in the guest (GuestOSInfo).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct OperatingSystem {
    /// `ID` of os-release(5).
    pub(crate) id: Option<String>,
    /// `NAME`.
    pub(crate) name: Option<String>,
    /// `PRETTY_NAME`.
    pub(crate) pretty_name: Option<String>,
    /// `VERSION`.
    pub(crate) version: Option<String>,
    /// `VERSION_ID`.
    pub(crate) version_id: Option<String>,
    /// As of uname(1).
    pub(crate) machine: Option<String>,
    /// `VARIANT`.
    pub(crate) variant: Option<String>,
    /// `VARIANT_ID`.
    pub(crate) variant_id: Option<String>,
    /// As of uname(1).
    pub(crate) kernel_release: Option<String>,
    /// As of uname(1).
    pub(crate) kernel_version: Option<String>,
}

/// The guest's time zone (GuestTimezone).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct TimeZone {
    /// Name.
    pub(crate) zone: Option<String>,
    /// From UTC, seconds to the east.
    pub(crate) offset: i32,
}

/// Load averages (GuestLoadAverage).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Load {
    /// Of one minute.
    #[serde(rename = "load1m")]
    pub(crate) one: f64,
    /// Of five.
    #[serde(rename = "load5m")]
    pub(crate) five: f64,
    /// Of fifteen.
    #[serde(rename = "load15m")]
    pub(crate) fifteen: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HostName {
    host_name: String,
}

#[derive(Deserialize)]
struct Trimmed {
    paths: Vec<TrimmedPath>,
}

#[derive(Deserialize)]
struct TrimmedPath {
    path: String,
    error: Option<String>,
}

impl GuestAgent<'_> {
    async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, AgentError> {
        read(name, self.call(name, Value::Null, ANSWER).await?)
    }

    /// Whether it is there; every command asks that first.
    #[cfg(test)]
    pub(crate) async fn ping(&self) -> Result<(), AgentError> {
        self.call("guest-ping", Value::Null, ANSWER).await.map(drop)
    }

    /// Tells the guest to end. Returns when it has not refused for a while.
    pub(crate) async fn shut_down(&self, mode: ShutdownMode) -> Result<(), AgentError> {
        let mode = match mode {
            ShutdownMode::PowerDown => "powerdown",
            ShutdownMode::Reboot => "reboot",
        };
        self.call_and_leave("guest-shutdown", json!({ "mode": mode })).await
    }

    /// The guest's interfaces and their addresses.
    pub(crate) async fn interfaces(&self) -> Result<Vec<Interface>, AgentError> {
        self.get("guest-network-get-interfaces").await
    }

    /// Name of the guest.
    pub(crate) async fn host_name(&self) -> Result<String, AgentError> {
        self.get::<HostName>("guest-get-host-name").await.map(|name| name.host_name)
    }

    /// The guest's time, nanoseconds since 1970.
    pub(crate) async fn time(&self) -> Result<i64, AgentError> {
        self.get("guest-get-time").await
    }

    /// Sets the guest's time, nanoseconds since 1970; without one, from its hardware clock.
    pub(crate) async fn set_time(&self, nanoseconds: Option<i64>) -> Result<(), AgentError> {
        let arguments = nanoseconds.map_or(Value::Null, |time| json!({ "time": time }));
        self.call("guest-set-time", arguments, ANSWER).await.map(drop)
    }

    /// What is mounted.
    pub(crate) async fn file_systems(&self) -> Result<Vec<FileSystem>, AgentError> {
        self.get("guest-get-fsinfo").await
    }

    /// Freezes all file systems, or those that are mounted at `mountpoints`; returns how many.
    pub(crate) async fn freeze(&self, mountpoints: &[String]) -> Result<i32, AgentError> {
        let (name, arguments) = match mountpoints {
            [] => ("guest-fsfreeze-freeze", Value::Null),
            some => ("guest-fsfreeze-freeze-list", json!({ "mountpoints": some })),
        };
        read(name, self.call(name, arguments, LONGEST).await?)
    }

    /// Thaws all file systems; returns how many.
    pub(crate) async fn thaw(&self) -> Result<i32, AgentError> {
        let name = "guest-fsfreeze-thaw";
        read(name, self.call(name, Value::Null, LONGEST).await?)
    }

    /// Gives back storage that file systems do not use, in pieces of at least `minimum` bytes.
    ///
    /// # Errors
    /// Of the guest as a whole only: a file system that can't is not one, as long as another can.
    pub(crate) async fn trim(&self, minimum: u64) -> Result<(), AgentError> {
        let name = "guest-fstrim";
        let trimmed = self.call(name, json!({ "minimum": minimum }), LONGEST).await?;
        // Old agents return an empty object.
        let Ok(Trimmed { paths }) = serde_json::from_value(trimmed) else { return Ok(()) };
        let done = paths.iter().any(|path| path.error.is_none());
        match paths.iter().find_map(|path| Some((&path.path, path.error.as_ref()?))) {
            Some((path, error)) if !done => Err(AgentError::Refused {
                command: name.to_owned(),
                description: format!("{path}: {error}"),
                unsupported: false,
            }),
            _ => Ok(()),
        }
    }

    /// Who is logged in.
    pub(crate) async fn users(&self) -> Result<Vec<User>, AgentError> {
        self.get("guest-get-users").await
    }

    /// What runs in the guest.
    pub(crate) async fn operating_system(&self) -> Result<OperatingSystem, AgentError> {
        self.get("guest-get-osinfo").await
    }

    /// The guest's time zone.
    pub(crate) async fn time_zone(&self) -> Result<TimeZone, AgentError> {
        self.get("guest-get-timezone").await
    }

    /// The guest's disks.
    pub(crate) async fn disks(&self) -> Result<Vec<GuestDisk>, AgentError> {
        self.get("guest-get-disks").await
    }

    /// Load averages; agents have it since QEMU 10.
    pub(crate) async fn load(&self) -> Result<Load, AgentError> {
        self.get("guest-get-load").await
    }

    /// Sets a user's password; `crypted`: it is one as in shadow(5) already.
    pub(crate) async fn set_password(
        &self,
        user: &str,
        password: &str,
        crypted: bool,
    ) -> Result<(), AgentError> {
        let password = base64(password.as_bytes());
        let arguments = json!({ "username": user, "password": password, "crypted": crypted });
        self.call("guest-set-user-password", arguments, ANSWER).await.map(drop)
    }
}

fn read<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, AgentError> {
    serde_json::from_value(value)
        .map_err(|error| AgentError::Senseless { command: name.to_owned(), what: error.to_string() })
}

/// RFC 4648, section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 3];
        padded[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            let letter = if place <= group.len() { ALPHABET[index as usize] } else { b'=' };
            text.push(char::from(letter));
        }
    }
    text
}
