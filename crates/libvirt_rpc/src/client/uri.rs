//! Connection URIs: which sockets they mean.
//!
//! Source: libvirt's docs/uri.rst and src/remote/remote_sockets.c: the daemon for QEMU has a socket of its own, the older one
//! for everything is tried next; users have theirs under XDG_RUNTIME_DIR.

use std::path::PathBuf;

/// Whose daemon it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    System,
    Session,
}

/// What a URI means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    scope: Scope,
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
    /// It has a parameter that there is not.
    #[error("the URI's parameter {0:?} is unknown; there is only socket=PATH")]
    Parameter(String),
    /// The socket's path is not absolute.
    #[error("the socket {0:?} of the URI is not an absolute path")]
    Relative(String),
    /// There is no place for a user's sockets.
    #[error("qemu:///session needs XDG_RUNTIME_DIR, which is not set")]
    NoRuntimeDirectory,
}

impl Target {
    /// Reads a URI.
    ///
    /// # Errors
    /// See [`UriError`].
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let (base, query) = uri.split_once('?').unwrap_or((uri, ""));
        let scope = match base {
            "qemu:///system" | "qemu+unix:///system" => Scope::System,
            "qemu:///session" | "qemu+unix:///session" => Scope::Session,
            _ => return Err(UriError::Unknown(uri.to_owned())),
        };
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
        Ok(Self { scope, socket })
    }

    /// The URI that the daemon is told: transport and socket are nobody's business but the client's.
    pub fn name(&self) -> String {
        match self.scope {
            Scope::System => "qemu:///system".to_owned(),
            Scope::Session => "qemu:///session".to_owned(),
        }
    }

    /// The sockets to try, in order.
    ///
    /// # Errors
    /// There is no place for a user's sockets.
    pub fn sockets(&self, read_only: bool) -> Result<Vec<PathBuf>, UriError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        // Sessions have no read-only socket: their daemon is the user's own.
        let suffix = if read_only && self.scope == Scope::System { "-ro" } else { "" };
        let directory = match self.scope {
            Scope::System => PathBuf::from("/run/libvirt"),
            Scope::Session => PathBuf::from(
                std::env::var_os("XDG_RUNTIME_DIR")
                    .filter(|path| !path.is_empty())
                    .ok_or(UriError::NoRuntimeDirectory)?,
            )
            .join("libvirt"),
        };
        Ok(["virtqemud-sock", "libvirt-sock"].map(|name| directory.join(format!("{name}{suffix}"))).to_vec())
    }
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
        let sockets = Target::parse("qemu:///system").unwrap().sockets(true).unwrap();
        assert_eq!(
            sockets,
            ["/run/libvirt/virtqemud-sock-ro", "/run/libvirt/libvirt-sock-ro"].map(PathBuf::from)
        );
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        for uri in [
            "",
            "xen:///system",
            "qemu+ssh://host/system",
            "qemu:///system?no_verify=1",
            "qemu:///system?socket=x",
            "qemu:///system?socket=/%zz",
        ] {
            assert!(Target::parse(uri).is_err(), "{uri}");
        }
    }
}
