//! Limits of what passes an interface (tc(8); linux/pkt_sched.h, linux/pkt_cls.h).
//!
//! What the host sends to an interface waits in a token bucket (`tbf`): average, peak and burst as they are said. What comes from
//! it can't be made to wait there, so what is too much is dropped (`police`), which TCP takes for a slow link; this is
//! what libvirt does. Both belong to the interface and go with it.

use std::io;

use rustix::io::Errno;

use crate::netlink::{ACKNOWLEDGE, CREATE, REPLACE, Socket, Writer};
use crate::network::{Bandwidth, Limit};

/// `RTM_*` of linux/rtnetlink.h.
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const NEW_FILTER: u16 = 44;
/// `TC_H_ROOT`, `TC_H_INGRESS`, and the handle that the latter has.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// `ETH_P_ALL`, and the priority of the only filter.
const ALL_PROTOCOLS: u16 = 0x0003;
const PRIORITY: u32 = 1 << 16;
/// `TC_LINKLAYER_ETHERNET`.
const ETHERNET: u8 = 1;
/// `TC_POLICE_SHOT`: what is too much is dropped.
const DROP: i32 = 2;
const KIB: u64 = 1024;
/// Largest piece that a guest or the host passes at once, with its headers (GSO), bytes: a bucket that is smaller would let none pass.
const LEAST_BURST: u64 = 128 * KIB;
/// What waits, as a part of a second at the average speed; and the least, bytes.
const WAITING: u64 = 4;
const LEAST_WAITING: u64 = 256 * KIB;
/// The kernel's unit of time in these messages, nanoseconds (`PSCHED_SHIFT`).
const TICK: u128 = 64;

/// Limits a guest's interface: what the host sends there is what the guest receives.
pub(crate) fn set(index: u32, limits: &Bandwidth) -> io::Result<()> {
    let socket = Socket::open(None)?;
    match limits.inbound {
        Some(limit) => request(&socket, NEW_QDISC, CREATE | REPLACE, index, (1 << 16, ROOT, 0), |qdisc| {
            token_bucket(qdisc, &limit)
        })
        .map_err(explained("the kernel can't limit what guests receive: it needs the module sch_tbf"))?,
        None => remove(&socket, index, ROOT)?,
    }
    remove(&socket, index, INGRESS)?;
    let Some(limit) = limits.outbound else { return Ok(()) };
    request(&socket, NEW_QDISC, CREATE, index, (INGRESS_HANDLE, INGRESS, 0), |qdisc| {
        qdisc.text(1, "ingress");
    })
    .map_err(explained("the kernel can't limit what guests send: it needs the module sch_ingress"))?;
    let which = PRIORITY | u32::from(ALL_PROTOCOLS.to_be());
    let filter = request(&socket, NEW_FILTER, CREATE, index, (0, INGRESS_HANDLE, which), |filter| {
        filter.text(1, "matchall").nest(2, |options| {
            options.nest(2, |actions| {
                actions.nest(1, |action| police(action, &limit));
            });
        });
    });
    filter.map_err(|error| {
        // Nothing is left of what was begun.
        if let Err(left) = remove(&socket, index, INGRESS) {
            tracing::warn!("a queue stays at interface {index}: {left}");
        }
        explained(
            "the kernel can't limit what guests send: it needs the modules cls_matchall and act_police",
        )(error)
    })
}

/// What the kernel means when it has not got something.
fn explained(missing: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::OPNOTSUPP) => io::Error::new(io::ErrorKind::Unsupported, missing),
        _ => error,
    }
}

/// Limits a bridge: what the host sends there is what guests receive.
pub(crate) fn set_bridge(index: u32, limits: &Bandwidth) -> io::Result<()> {
    set(index, limits)
}

/// Removes a queue; one that is not there is fine.
fn remove(socket: &Socket, index: u32, parent: u32) -> io::Result<()> {
    match request(socket, DELETE_QDISC, 0, index, (0, parent, 0), |_| {}) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::INVAL)) => Ok(()),
        removed => removed,
    }
}

/// Asks for a change: handle, parent and what else says which, as in `struct tcmsg`.
fn request(
    socket: &Socket,
    kind: u16,
    flags: u16,
    index: u32,
    (handle, parent, info): (u32, u32, u32),
    fill: impl FnOnce(&mut Writer),
) -> io::Result<()> {
    let mut header = vec![0; 4];
    for field in [index, handle, parent, info] {
        header.extend_from_slice(&field.to_ne_bytes());
    }
    let mut message = Writer::default();
    message.message(kind, flags | ACKNOWLEDGE, 1, &header, fill);
    socket.exchange(&message, 1, 1)
}

fn bytes(kibibytes: u32) -> u64 {
    u64::from(kibibytes) * KIB
}

/// How much passes at once.
fn burst(limit: &Limit) -> u64 {
    // A tenth of a second when it is not said.
    limit.burst.map_or(bytes(limit.average) / 10, bytes).max(LEAST_BURST)
}

fn limited(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// `struct tc_ratespec`, bytes a second; what does not fit is in an attribute of its own.
fn rate_specification(rate: u64) -> [u8; 12] {
    let mut specification = [0; 12];
    // `cell_log` has to be there, and is of no use where the link is known.
    specification[0] = 3;
    specification[1] = ETHERNET;
    specification[8..].copy_from_slice(&limited(rate).to_ne_bytes());
    specification
}

/// A peak that is no more than the average is none: the kernel takes it for a mistake.
fn peak(limit: &Limit) -> Option<u64> {
    limit.peak.filter(|peak| *peak > limit.average).map(bytes)
}

fn token_bucket(qdisc: &mut Writer, limit: &Limit) {
    let rate = bytes(limit.average);
    let waiting = (rate / WAITING).max(LEAST_WAITING) + burst(limit);
    qdisc.text(1, "tbf").nest(2, |options| {
        // `struct tc_tbf_qopt`: rate, peak rate, limit, buffer, mtu; the last two are said in bytes below.
        let mut parameters = rate_specification(rate).to_vec();
        parameters.extend_from_slice(&peak(limit).map_or([0; 12], rate_specification));
        for field in [limited(waiting), 0, 0] {
            parameters.extend_from_slice(&field.to_ne_bytes());
        }
        options.attribute(1, &parameters);
        options.attribute(4, &rate.to_ne_bytes());
        options.attribute(6, &limited(burst(limit)).to_ne_bytes());
        if let Some(peak) = peak(limit) {
            options.attribute(5, &peak.to_ne_bytes());
            options.attribute(7, &limited(LEAST_BURST).to_ne_bytes());
        }
    });
}

/// An action of a filter: its kind, and `struct tc_police`.
fn police(action: &mut Writer, limit: &Limit) {
    // A policer has one bucket only: the peak would need another. Where a burst may be faster, it is so up to its size.
    let rate = bytes(limit.average);
    let nanoseconds = u128::from(burst(limit)) * 1_000_000_000 / u128::from(rate.max(1));
    let ticks = u32::try_from(nanoseconds / TICK).unwrap_or(u32::MAX);
    action.text(1, "police").nest(2, |options| {
        let mut parameters = Vec::new();
        parameters.extend_from_slice(&0_u32.to_ne_bytes());
        parameters.extend_from_slice(&DROP.to_ne_bytes());
        for field in [0, ticks, 0] {
            parameters.extend_from_slice(&u32::to_ne_bytes(field));
        }
        parameters.extend_from_slice(&rate_specification(rate));
        parameters.extend_from_slice(&[0; 12]);
        // References, bindings, capabilities.
        parameters.extend_from_slice(&[0; 12]);
        options.attribute(1, &parameters);
        // A table of times, which the kernel asks for and does not read.
        options.attribute(2, &[0; 1024]);
        options.attribute(8, &rate.to_ne_bytes());
    });
}
