//! Real interfaces, in a network namespace of the test's own thread.

use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

use super::*;
use crate::conformance::{self, Frame, Subject};

#[test]
fn names_that_no_interface_can_have_are_refused() {
    for name in ["", "sixteen_letters!", ".", "..", "a/b", "a b", "a:b", "tap\n", "täp", "a%sb", "%d%d"] {
        let error = Tap::open(&TapOptions::new(name)).unwrap_err().to_string();
        assert!(error.contains("not a name for an interface"), "{name:?}: {error}");
    }
    for name in ["tap0", "fifteen_letters", "vireo%d"] {
        check_name(name).unwrap();
    }
}

#[test]
fn queue_pairs_and_prefixes_are_bounded() {
    for queue_pairs in [0, 257] {
        let error =
            Tap::open(&TapOptions { queue_pairs, ..TapOptions::new("tap0") }).unwrap_err().to_string();
        assert!(error.contains("1 to 256"), "{error}");
    }
    let address = Some((Ipv4Addr::LOCALHOST, 33));
    let error = Tap::open(&TapOptions { address, ..TapOptions::new("tap0") }).unwrap_err().to_string();
    assert!(error.contains("prefix length 33"), "{error}");
}

#[test]
fn a_descriptor_that_is_not_a_tap_is_refused() {
    let error = Tap::adopt(OwnedFd::from(tempfile::tempfile().unwrap())).unwrap_err().to_string();
    assert!(error.contains("not a TAP device"), "{error}");
    let Ok(unattached) = open_device() else {
        eprintln!("skipped: /dev/net/tun cannot be opened");
        return;
    };
    let error = Tap::adopt(unattached).unwrap_err().to_string();
    assert!(error.contains("not attached"), "{error}");
}

/// Runs `test` in a network namespace of its own, where that is permitted.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    static REASON: OnceLock<()> = OnceLock::new();
    let thread = std::thread::Builder::new().spawn(move || {
        if let Err(errno) = unshare_network() {
            REASON.get_or_init(|| eprintln!("skipped: no network namespace of our own: {errno}"));
            return;
        }
        // Without IPv6 the kernel sends nothing of its own.
        for which in ["all", "default"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "gives this thread a network namespace of its own")]
fn unshare_network() -> Result<(), Errno> {
    // SAFETY: affects this thread's view of the network only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// The host's end of an interface's wire, as a backend: a packet socket (packet(7)) without offloads.
struct HostEnd {
    socket: OwnedFd,
}

impl HostEnd {
    #[expect(unsafe_code, reason = "packet sockets are not wrapped by our libraries")]
    fn of(name: &str) -> Self {
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let all = 3u16.to_be();
        // SAFETY: makes a descriptor, which is owned from here on.
        let socket = unsafe {
            let raw = libc::socket(libc::AF_PACKET, flags, i32::from(all));
            assert!(raw >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(raw)
        };
        let c_name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a terminated string; then an address structure of plain numbers that lives across the call.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = all;
            address.sll_ifindex = i32::try_from(libc::if_nametoindex(c_name.as_ptr())).unwrap();
            let bytes = u32::try_from(size_of_val(&address)).unwrap();
            let result = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes);
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            // Outgoing frames come back to a packet socket unless it says otherwise.
            let on = 1i32;
            let option = 23; // PACKET_IGNORE_OUTGOING
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), 4);
        }
        Self { socket }
    }
}

impl NetBackend for HostEnd {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn set_guest_offloads(&mut self, _offloads: Offloads) -> Result<(), NetError> {
        Ok(())
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        let mut frame = vec![0; 70_000];
        match rustix::io::read(&self.socket, &mut frame) {
            Ok(bytes) => {
                buffers[0].subslice(VNET_HEADER_BYTES, bytes).unwrap().copy_from(&frame[..bytes]);
                Ok(Some(bytes + VNET_HEADER_BYTES))
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let bytes = crate::vectors::total_bytes(buffers);
        let frame = crate::vectors::gather(buffers, bytes, VNET_HEADER_BYTES, bytes);
        rustix::io::write(&self.socket, &frame)?;
        Ok(())
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_enabled(&mut self, _enabled: bool) -> Result<(), NetError> {
        Ok(())
    }
}

const ADDRESS: Option<(Ipv4Addr, u8)> = Some((Ipv4Addr::new(192, 0, 2, 1), 24));

fn subject() -> Subject {
    let options = TapOptions { address: ADDRESS, ..TapOptions::new("wire%d") };
    let tap = Tap::open(&options).unwrap().remove(0);
    let host = HostEnd::of(tap.name());
    Subject::new(Box::new(tap), Box::new(host))
}

#[test]
fn a_tap_keeps_the_contract_of_network_backends() {
    in_namespace(|| {
        conformance::frames_pass_in_both_directions_in_order(subject());
        conformance::frames_may_lie_in_many_pieces(subject());
        conformance::a_silent_wire_has_nothing_and_does_not_wait(subject());
        conformance::a_frame_longer_than_the_buffers_is_cut(subject());
        conformance::what_is_shorter_than_a_frame_is_refused(subject());
        conformance::offloads_can_be_switched_on_and_off(subject());
    });
}

#[test]
fn address_prefix_mtu_and_state_are_set() {
    in_namespace(|| {
        let options = TapOptions { address: ADDRESS, mtu: Some(9000), ..TapOptions::new("setup0") };
        let queues = Tap::open(&options).unwrap();
        assert_eq!((queues.len(), queues[0].name()), (1, "setup0"));
        let output =
            std::process::Command::new("ip").args(["-oneline", "address", "show", "setup0"]).output();
        let Ok(output) = output else {
            eprintln!("skipped: no ip command to compare with");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("inet 192.0.2.1/24"), "{text}");
        let output = std::process::Command::new("ip").args(["link", "show", "setup0"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("mtu 9000") && text.contains(",UP"), "{text}");
    });
}

#[test]
fn a_bad_header_of_a_guest_loses_one_frame() {
    in_namespace(|| {
        let options = TapOptions { address: ADDRESS, ..TapOptions::new("bad0") };
        let mut tap = Tap::open(&options).unwrap().remove(0);
        let mut frame = Frame::numbered(1, 60);
        // A checksum to be made far outside of the frame (virtio 1.2, 5.1.6.2).
        frame.bytes[..VNET_HEADER_BYTES].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        assert_eq!(tap.send(&frame.slices(&[100])).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        frame.bytes[..VNET_HEADER_BYTES].fill(0);
        tap.send(&frame.slices(&[100])).unwrap();
    });
}

#[test]
fn an_interface_has_as_many_queues_as_asked_for() {
    in_namespace(|| {
        let options = TapOptions { queue_pairs: 4, ..TapOptions::new("many%d") };
        let queues = Tap::open(&options).unwrap();
        assert_eq!(queues.iter().map(Tap::name).collect::<Vec<_>>(), ["many0"; 4]);
    });
}

#[test]
fn a_queue_that_is_disabled_gets_nothing_and_can_be_enabled_again() {
    in_namespace(|| {
        let options = TapOptions { queue_pairs: 2, ..TapOptions::new("part%d") };
        let mut queues = Tap::open(&options).unwrap();
        let mut bytes = [0u8; 2000];
        let all = [VolatileSlice::from(&mut bytes[..])];
        queues[1].set_enabled(false).unwrap();
        assert_eq!(queues[1].receive(&all).unwrap(), None);
        // The kernel refuses what is the case already, which shows that it is.
        assert!(queues[1].set_enabled(false).is_err());
        queues[1].set_enabled(true).unwrap();
        assert!(queues[1].set_enabled(true).is_err());
        assert_eq!(queues[1].receive(&all).unwrap(), None);
        let mut only = Tap::open(&TapOptions::new("only%d")).unwrap();
        only[0].set_enabled(true).unwrap();
        assert_eq!(only[0].receive(&all).unwrap(), None);
    });
}

#[test]
fn what_is_busy_or_not_a_tap_is_refused_with_the_reason() {
    in_namespace(|| {
        let _first = Tap::open(&TapOptions::new("one0")).unwrap();
        let error = Tap::open(&TapOptions::new("one0")).unwrap_err().to_string();
        assert!(error.contains("one0") && error.contains("another process uses it"), "{error}");
        let error = Tap::open(&TapOptions::new("lo")).unwrap_err().to_string();
        assert!(error.contains("not a TAP"), "{error}");
        let many = TapOptions { queue_pairs: 2, ..TapOptions::new("one0") };
        let error = Tap::open(&many).unwrap_err().to_string();
        assert!(error.contains("multi_queue"), "{error}");
    });
}

#[test]
fn open_descriptors_are_adopted_if_they_suit() {
    in_namespace(|| {
        let attached = |name: &str, flags| {
            let fd = open_device().unwrap();
            control::attach(fd.as_fd(), name, flags).unwrap();
            fd
        };
        let tap = Tap::adopt(attached("fd0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)).unwrap();
        assert_eq!(tap.name(), "fd0");
        assert!(tap.offloads().checksum && tap.offloads().tso4 && tap.offloads().tso6);
        const IFF_TUN: u16 = 1;
        for (name, flags, reason) in [
            ("fd1", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, "TUN, not a TAP"),
            ("fd2", IFF_TAP | IFF_NO_PI, "IFF_VNET_HDR"),
        ] {
            let error = Tap::adopt(attached(name, flags)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason), "{error}");
        }
    });
}

#[test]
fn a_new_interface_is_gone_with_the_last_of_its_queues() {
    in_namespace(|| {
        let exists = |name: &str| Interface::named(name).unwrap().set_up().is_ok();
        for queue_pairs in [1, 4] {
            let mut queues = Tap::create("new%d", queue_pairs).unwrap();
            assert_eq!(queues.iter().map(Tap::name).collect::<Vec<_>>(), vec!["new0"; queue_pairs.into()]);
            // As in the process that gets it, whatever becomes of the one that made it.
            let handed = OwnedFd::from(queues.pop().unwrap());
            drop(queues);
            assert!(exists("new0"));
            let tap = Tap::adopt(handed).unwrap();
            assert_eq!((tap.name(), tap.multi_queue), ("new0", queue_pairs > 1));
            drop(tap);
            assert!(!exists("new0"));
        }
    });
}

#[test]
fn a_new_interface_never_takes_the_place_of_another() {
    in_namespace(|| {
        let _one = Tap::create("one0", 1).unwrap();
        let _many = Tap::create("many0", 2).unwrap();
        for (name, queue_pairs) in [("one0", 1), ("many0", 2), ("many0", 1), ("lo", 1)] {
            let error = Tap::create(name, queue_pairs).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists, "{error}");
        }
        assert!(Tap::create("a/b", 1).is_err());
        assert!(Tap::create("one1", 257).is_err());
    });
}

/// Gives this thread an interface `mv0` on one end of a wire whose other is `wire0`, and makes the node of its device.
const ON_A_WIRE: &str = "set -e
    mount --make-rprivate /
    mount -t sysfs sysfs /sys
    ip link add up0 type veth peer name wire0
    ip link add link up0 name mv0 type macvtap mode passthru
    for link in up0 wire0 mv0; do ip link set $link up; done
    while [ \"$(cat /sys/class/net/mv0/operstate)\" != up ]; do :; done
    mknod \"$NODE\" c $(tr : ' ' < /sys/class/macvtap/tap$(cat /sys/class/net/mv0/ifindex)/dev)";

#[test]
fn an_interface_on_another_keeps_the_contract_of_network_backends() {
    in_namespace(|| {
        if let Err(errno) = unshare_mounts() {
            return eprintln!("skipped: no mounts of our own: {errno}");
        }
        // Where nodes of devices can be opened.
        let directory = tempfile::tempdir_in("/dev").unwrap();
        let node = directory.path().join("tap");
        let script =
            std::process::Command::new("sh").args(["-c", ON_A_WIRE]).env("NODE", &node).output().unwrap();
        if !script.status.success() {
            return eprintln!("skipped: no macvtap: {}", String::from_utf8_lossy(&script.stderr));
        }
        let subject = || {
            let file = std::fs::File::options().read(true).write(true).open(&node).unwrap();
            let tap = Tap::of_macvtap(file.into(), "mv0", 1).unwrap();
            assert!(tap.offloads().checksum && tap.offloads().tso4 && !tap.multi_queue);
            Subject::new(Box::new(tap), Box::new(HostEnd::of("wire0")))
        };
        conformance::frames_pass_in_both_directions_in_order(subject());
        conformance::frames_may_lie_in_many_pieces(subject());
        conformance::a_silent_wire_has_nothing_and_does_not_wait(subject());
        conformance::a_frame_longer_than_the_buffers_is_cut(subject());
        conformance::what_is_shorter_than_a_frame_is_refused(subject());
        conformance::offloads_can_be_switched_on_and_off(subject());
    });
}

#[expect(unsafe_code, reason = "gives this thread mounts of its own")]
fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: affects this thread's view of the file systems only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
}
