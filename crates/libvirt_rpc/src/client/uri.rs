//! Connection URIs: which sockets they mean.
//!
//! Source: libvirt's docs/uri.rst and src/remote/remote_sockets.c: the daemon of each driver has a socket of its own, the older
//! one for everything is tried next; users have theirs under XDG_RUNTIME_DIR. A URI never means this project's own daemon,
//! unless that listens where libvirt's clients look, or the URI names its socket.

use std::path::{Path, PathBuf};

/// What a URI means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    driver: String,
    path: String,
    socket: Option<PathBuf>,
}

/// A URI that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It is not of the form that there is.
    #[error(
        "{0:?} is no connection URI of this program: use qemu:///system or qemu:///session, with ?socket=PATH for another place"
    )]
    Unknown(String),
    /// It names another host, or a way to one.
    #[error("{0:?} leads to another host: only unix sockets of this host are known")]
    Remote(String),
    /// It has a parameter that there is not.
    #[error("the URI's parameter {0:?} is unknown; there is only socket=PATH")]
    Parameter(String),
    /// The socket's path is not absolute.
    #[error("the socket {0:?} of the URI is not an absolute path")]
    Relative(String),
    /// There is no place for a user's sockets.
    #[error("a user's own daemon is found by XDG_RUNTIME_DIR, which is not set")]
    NoRuntimeDirectory,
}

impl Target {
    /// Reads a URI: `DRIVER[+unix]:///PATH[?socket=PATH]`.
    ///
    /// # Errors
    /// See [`UriError`].
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let unknown = || UriError::Unknown(uri.to_owned());
        let (base, query) = uri.split_once('?').unwrap_or((uri, ""));
        let (scheme, rest) = base.split_once("://").ok_or_else(unknown)?;
        let (host, path) = rest.split_once('/').ok_or_else(unknown)?;
        let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, "unix"));
        let is_word = |text: &str| text.starts_with(|letter: char| letter.is_ascii_lowercase());
        let is_known = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        if !is_word(driver) || !driver.chars().all(is_known) {
            return Err(unknown());
        }
        if transport != "unix" || !host.is_empty() {
            return Err(UriError::Remote(uri.to_owned()));
        }
        if driver == "qemu" && !matches!(path, "system" | "session") {
            return Err(unknown());
        }
        let mut socket = None;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("socket", path)) => {
                    let path = decoded(path).ok_or_else(|| UriError::Parameter(parameter.to_owned()))?;
                    if !path.starts_with('/') {
                        return Err(UriError::Relative(path));
                    }
                    socket = Some(PathBuf::from(path));
                }
                _ => return Err(UriError::Parameter(parameter.to_owned())),
            }
        }
        Ok(Self { driver: driver.to_owned(), path: format!("/{path}"), socket })
    }

    /// The URI that the daemon is told: transport and socket are nobody's business but the client's.
    pub fn name(&self) -> String {
        format!("{}://{}", self.driver, self.path)
    }

    /// The sockets to try, in order.
    ///
    /// # Errors
    /// There is no place for a user's sockets.
    pub fn sockets(&self, read_only: bool) -> Result<Vec<PathBuf>, UriError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let directory = if self.path == "/session" {
            runtime_home()?.join("libvirt")
        } else {
            PathBuf::from("/run/libvirt")
        };
        // Sessions have no read-only socket: their daemon is the user's own.
        let suffix = if read_only && self.path != "/session" { "-ro" } else { "" };
        let names = [format!("virt{}d-sock{suffix}", self.driver), format!("libvirt-sock{suffix}")];
        Ok(names.map(|name| directory.join(name)).to_vec())
    }
}

/// The sockets at which this project's own daemon is looked for when no URI is given, in order: for root the host's, for others
/// their own and then the host's.
pub fn own_sockets(read_only: bool) -> Vec<PathBuf> {
    let name = if read_only { "libvirt-sock-ro" } else { "libvirt-sock" };
    let host = Path::new("/run/vireo").join(name);
    let user = (!rustix::process::geteuid().is_root()).then(runtime_home).and_then(Result::ok);
    user.map(|home| home.join("vireo").join(name)).into_iter().chain([host]).collect()
}

/// A user's directory for sockets; the specification has relative paths ignored (XDG Base Directory Specification).
fn runtime_home() -> Result<PathBuf, UriError> {
    let home = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    home.filter(|path| path.is_absolute()).ok_or(UriError::NoRuntimeDirectory)
}

/// Percent-decoding (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_the_uri_is_the_only_one() {
        let target = Target::parse("qemu:///system?socket=/tmp/a%20b/sock").unwrap();
        assert_eq!(target.sockets(true).unwrap(), [PathBuf::from("/tmp/a b/sock")]);
        assert_eq!(target.name(), "qemu:///system");
    }

    #[test]
    fn the_systems_sockets_are_tried_in_libvirts_order() {
        let sockets = |uri| Target::parse(uri).unwrap().sockets(true).unwrap();
        let both =
            |first: &str| [format!("/run/libvirt/{first}-sock-ro"), "/run/libvirt/libvirt-sock-ro".into()];
        assert_eq!(sockets("qemu:///system"), both("virtqemud").map(PathBuf::from));
        assert_eq!(sockets("lxc+unix:///system"), both("virtlxcd").map(PathBuf::from));
    }

    #[test]
    fn other_drivers_are_named_to_the_daemon_without_the_transport() {
        let name = |uri| Target::parse(uri).unwrap().name();
        assert_eq!(name("test+unix:///default?socket=/tmp/s"), "test:///default");
        assert_eq!(name("lxc:///system"), "lxc:///system");
        assert_eq!(name("esx:///"), "esx:///");
    }

    #[test]
    fn what_cannot_be_reached_is_refused_by_name() {
        for uri in [
            "",
            "demo",
            "qemu:system",
            "qemu://system",
            "QEMU:///system",
            "+unix:///system",
            "../x:///system",
            "qemu:///nowhere",
            "qemu:///system?no_verify=1",
            "qemu:///system?socket=x",
            "qemu:///system?socket=/%zz",
        ] {
            assert!(Target::parse(uri).is_err(), "{uri}");
        }
        for uri in ["qemu+ssh://host/system", "qemu://host/system", "qemu+tcp:///system"] {
            assert_eq!(Target::parse(uri), Err(UriError::Remote(uri.to_owned())));
        }
    }
}
