//! Taps on an interface of the host (macvtap): a guest is on the network of that interface, with a MAC address of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use crate::host::{Error, HostNetwork, named};
use crate::links::Links;
use crate::network::{MacvtapMode, Refused, interface_name};

/// A tap on an interface of the host.
#[derive(Debug)]
pub struct Macvtap {
    /// The interface's name.
    pub name: String,
    /// Where the guest's frames go, for the machine's process.
    pub tap: OwnedFd,
}

impl HostNetwork {
    /// Makes a tap with a guest's address on an interface of the host, and brings it up. Its alias, which says whose it is, is `mark`.
    ///
    /// # Errors
    /// The name or the mode is taken, there is no such interface, or the kernel has no macvtap. Nothing is left then.
    pub async fn add_macvtap(
        &self,
        name: &str,
        mark: &str,
        lower: &str,
        mode: MacvtapMode,
        mac: [u8; 6],
    ) -> Result<Macvtap, Error> {
        interface_name(name).map_err(|reason| Refused { network: name.to_owned(), reason })?;
        let object = format!("interface {name}");
        let at = |operation: &str| Error::host(&object, operation);
        let links = Links::open().map_err(at("cannot ask the kernel (netlink)"))?;
        let device = named(&links, lower).await?;
        // Down, it carries nothing: it is marked before it has its name.
        let temporary =
            format!("vireo{:08x}", device.index ^ u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]));
        if let Some(link) = links.by_name(&temporary).await.map_err(at("cannot find it"))?
            && link.is_macvtap()
            && link.alias.is_none()
        {
            links.remove(link.index).await.map_err(at("cannot remove what is half made"))?;
        }
        let operation = format!("cannot make it on '{lower}' (macvtap)");
        let added = links.add_macvtap(&temporary, device.index, mode, mac).await;
        added.map_err(|error| at(&operation)(explained(error)))?;
        let made = named(&links, &temporary).await?;
        let finished = async {
            links.set_alias(made.index, mark).await?;
            links.rename(made.index, name).await?;
            let tap = open(made.index)?;
            links.set_up(made.index, true).await?;
            Ok(tap)
        };
        match finished.await {
            Ok(tap) => Ok(Macvtap { name: name.to_owned(), tap }),
            Err(error) => {
                if let Err(left) = links.remove(made.index).await {
                    tracing::warn!("{object} stays: {left}");
                }
                Err(at(&operation)(error))
            }
        }
    }

    /// Removes a tap that has this mark; one that is gone is fine.
    ///
    /// # Errors
    /// It is somebody else's, or the kernel does not do it.
    pub async fn remove_macvtap(&self, name: &str, mark: &str) -> Result<(), Error> {
        let object = format!("interface {name}");
        let at = |operation: &str| Error::host(&object, operation);
        let links = Links::open().map_err(at("cannot ask the kernel (netlink)"))?;
        let Some(link) = links.by_name(name).await.map_err(at("cannot find it"))? else { return Ok(()) };
        if !link.is_macvtap() || link.alias.as_deref() != Some(mark) {
            let reason = format!("it has not the alias of the one that was made ({mark})");
            return Err(at("cannot remove it")(io::Error::other(reason)));
        }
        links.remove(link.index).await.map_err(at("cannot remove it"))
    }
}

fn explained(error: io::Error) -> io::Error {
    let reason = match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => "the kernel has no macvtap: load the module macvtap",
        Some(Errno::BUSY) => "the interface is in use in another way (a port of a bridge, or passed through)",
        _ => return error,
    };
    io::Error::new(error.kind(), reason)
}

/// Opens the tap of an interface; numbers of other network namespaces are not taken for it.
fn open(index: u32) -> io::Result<OwnedFd> {
    let path = format!("/dev/tap{index}");
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open its tap, {path}: {error}")))?;
    // Where sysfs shows this namespace, it says which device is the interface's.
    let number = fs::read_to_string(format!("/sys/class/macvtap/tap{index}/dev"));
    if let Ok(number) = number {
        let device = file.metadata()?.rdev();
        let found = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        if found != number.trim() {
            return Err(io::Error::other(format!("{path} is another interface's ({found})")));
        }
    }
    Ok(file.into())
}
