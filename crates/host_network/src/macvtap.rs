//! Taps on an interface of the host (macvtap): a guest is on the network of that interface, with a MAC address of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use net_io::Tap;
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use crate::links::{Link, Links};
use crate::network::{MacvtapMode, interface_name};
use crate::taps::{TapError, WantedTap, at};

/// Beginning of the name of one that has no alias yet; eight digits follow.
const UNMARKED: &str = "vireo";
const UNMARKED_DIGITS: usize = 8;

/// Whether its maker died before it was marked.
pub(crate) fn is_half_made(link: &Link) -> bool {
    let digits = link.name.strip_prefix(UNMARKED);
    link.is_macvtap()
        && !link.up
        && link.alias.is_none()
        && digits.is_some_and(|digits| {
            digits.len() == UNMARKED_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        })
}

/// The device with the fewest interfaces on it, the first of several. One that is passed through has no others.
pub(crate) async fn choose(links: &Links, devices: &[String], mode: MacvtapMode) -> Result<Link, TapError> {
    let all = links.all().await.map_err(at("interfaces", "cannot list them"))?;
    let (mut best, mut refusal) = (None, None);
    for name in devices {
        let object = format!("interface '{name:.32}'");
        let refused = |reason: String| Some(TapError { object: object.clone(), reason });
        let Some(device) = all.iter().find(|link| link.name == *name) else {
            refusal =
                refused("there is no such interface: name one of the host's, as 'ip link' shows them".into());
            continue;
        };
        if device.is_bridge() {
            refusal = refused(format!("it is a bridge: use type='bridge' with <source bridge='{name}'/>"));
            continue;
        }
        let users = || all.iter().filter(|link| link.is_on(device) && !is_half_made(link));
        if mode == MacvtapMode::Passthrough
            && let Some(user) = users().next()
        {
            refusal = refused(format!(
                "mode 'passthrough' gives it to one guest alone, and interface {} is on it: name another one",
                user.name
            ));
            continue;
        }
        let count = users().count();
        if best.as_ref().is_none_or(|(least, _)| count < *least) {
            best = Some((count, device));
        }
    }
    let Some((_, device)) = best else {
        let none = || TapError { object: "interfaces".into(), reason: "none is named".into() };
        return Err(refusal.unwrap_or_else(none));
    };
    if !device.up {
        tracing::warn!("interface {} is down: guests are not connected until it is up", device.name);
    }
    Ok(device.clone())
}

/// Makes a tap with a guest's address on an interface of the host, and brings it up. Nothing is left when that fails.
pub(crate) async fn make(
    links: &Links,
    name: &str,
    mark: &str,
    device: &Link,
    mode: MacvtapMode,
    wanted: &WantedTap,
) -> Result<Vec<OwnedFd>, TapError> {
    let object = format!("interface {name:.32}");
    let refused = |reason: &str| TapError { object: object.clone(), reason: reason.to_owned() };
    interface_name(name).map_err(|reason| refused(&reason))?;
    // The host passes on what is sent to this address, and nothing else.
    let mac =
        wanted.mac.ok_or_else(|| refused("the guest's address has to be known: add <mac address='...'/>"))?;
    let operation = format!("cannot make it on '{}' (macvtap)", device.name);
    // Down, it carries nothing: it is marked before it has its name.
    let digits = device.index ^ u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
    let temporary = format!("{UNMARKED}{digits:08x}");
    let added = links.add_macvtap(&temporary, device.index, mode, mac).await;
    added.map_err(|error| at(&object, &operation)(explained(error)))?;
    let made = links.by_name(&temporary).await.map_err(at(&object, &operation))?;
    let Some(made) = made else { return Err(at(&object, &operation)(io::ErrorKind::NotFound.into())) };
    let finished = async {
        links.set_alias(made.index, mark).await.map_err(at(&object, "cannot mark it"))?;
        links.rename(made.index, name).await.map_err(at(&object, &operation))?;
        // One that is passed through has begun with the device's.
        links.set_mac(made.index, mac).await.map_err(at(&object, "cannot set its address"))?;
        if let Some(mtu) = wanted.mtu {
            let operation = format!("cannot set its MTU to {mtu}, which '{}' has to carry", device.name);
            links.set_mtu(made.index, mtu).await.map_err(at(&object, &operation))?;
        }
        // The guest's groups are not known here, and IPv6 finds neighbours by groups.
        let operation = "cannot let it take frames to groups";
        links.set_all_multicast(made.index).await.map_err(at(&object, operation))?;
        let queues = open(name, made.index, mac, wanted.queue_pairs)
            .map_err(|error| refused(&format!("cannot open it: {error}")))?;
        wanted.settle(name).await?;
        links.set_up(made.index, true).await.map_err(at(&object, "cannot bring it up"))?;
        Ok(queues)
    };
    let finished = finished.await;
    if finished.is_err()
        && let Err(left) = links.remove(made.index).await
    {
        tracing::warn!("{object} stays: {left}");
    }
    finished
}

fn explained(error: io::Error) -> io::Error {
    let reason = match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => "the kernel has no macvtap: load the module macvtap (modprobe macvtap)",
        Some(Errno::BUSY) => "the interface is in use in another way: it is a port of a bridge or of a bond",
        Some(Errno::INVAL) => {
            "the interface does not take another: it is passed through, or does not carry Ethernet frames"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), reason)
}

/// Opens so many queues of an interface.
fn open(name: &str, index: u32, mac: [u8; 6], queue_pairs: u16) -> io::Result<Vec<OwnedFd>> {
    let device = device(name, index, mac)?;
    let (path, _node) = node(index, device)?;
    let open = |_| {
        let file = File::options().read(true).write(true).open(&path);
        let file =
            file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let tap = Tap::of_macvtap(file.into(), name, queue_pairs);
        tap.map(OwnedFd::from).map_err(|error| io::Error::new(error.source.kind(), error.to_string()))
    };
    (0..queue_pairs).map(open).collect()
}

/// Number of the character device that carries an interface's frames, as sysfs says, which may show another network namespace.
fn device(name: &str, index: u32, mac: [u8; 6]) -> io::Result<u64> {
    let read = |path: &str| {
        let text = fs::read_to_string(format!("/sys/class/{path}"));
        text.map(|text| text.trim().to_owned())
    };
    let shown = mac.map(|byte| format!("{byte:02x}")).join(":");
    let seen = read(&format!("net/{name}/ifindex")).is_ok_and(|seen| seen == index.to_string())
        && read(&format!("net/{name}/address")).is_ok_and(|seen| seen == shown);
    if !seen {
        return Err(io::Error::other(
            "/sys does not show this network namespace: mount sysfs anew (mount -t sysfs sysfs /sys)",
        ));
    }
    let number = read(&format!("macvtap/tap{index}/dev"))?;
    let parts =
        number.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = parts.ok_or_else(|| io::Error::other(format!("its device number is '{number}'")))?;
    Ok(makedev(major, minor))
}

/// A device node that is gone when this is dropped.
struct Node(PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!("{}: cannot remove it: {error}", self.0.display());
        }
    }
}

/// The device's node: the kernel's, or one for a moment where there is none, or only that of another network namespace.
fn node(index: u32, device: u64) -> io::Result<(PathBuf, Option<Node>)> {
    let path = PathBuf::from(format!("/dev/tap{index}"));
    if fs::metadata(&path).is_ok_and(|node| node.rdev() == device) {
        return Ok((path, None));
    }
    let path = Path::new("/dev").join(format!("vireo-tap-{}-{device:x}", std::process::id()));
    mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)
        .map_err(|errno| io::Error::new(errno.kind(), format!("cannot make its node in /dev: {errno}")))?;
    Ok((path.clone(), Some(Node(path))))
}
