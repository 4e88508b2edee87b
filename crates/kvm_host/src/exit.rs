//! Why a vCPU came out of the guest, decoded from the area that it shares with the kernel (KVM API, section 5).

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};

/// Why a vCPU came out of the guest. What it lends is completed by the next run.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'a> {
    /// The guest reads a port: fill `data`, which is one access of `size` bytes, or several to the same port (INS).
    PortIn {
        /// Port.
        port: u16,
        /// Bytes in one access: 1, 2 or 4.
        size: usize,
        /// One or more accesses, one after the other.
        data: &'a mut [u8],
    },
    /// The guest writes a port, once or (OUTS) several times.
    PortOut {
        /// Port.
        port: u16,
        /// Bytes in one access: 1, 2 or 4.
        size: usize,
        /// One or more accesses, one after the other.
        data: &'a [u8],
    },
    /// The guest reads an address that no memory slot has: fill `data` (1 to 8 bytes).
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// What is read.
        data: &'a mut [u8],
    },
    /// The guest writes an address that no writable memory slot has (1 to 8 bytes).
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// What is written.
        data: &'a [u8],
    },
    /// The guest halted and nothing in the kernel will wake it; not seen with the kernel's interrupt controllers.
    Halt,
    /// Triple fault: a real machine resets.
    Shutdown,
    /// The guest asked for something through the hypervisor.
    SystemEvent(SystemEvent),
    /// KVM cannot go on, for example because it can't emulate an instruction; the guest is lost.
    InternalError {
        /// 1 emulation failed, 2 exceptions at once, 3 delivering an event, 4 unexpected exit reason.
        suberror: u32,
        /// Details, at most 16 words.
        data: &'a [u64],
    },
    /// The processor refused the guest's state; the guest is lost.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host processor that refused.
        cpu: u32,
    },
    /// The thread was kicked ([`crate::Kick`]) or a signal came: look for wishes, then run again.
    Interrupted,
    /// Another exit, by its number in the KVM API.
    Other(u32),
}

/// What a guest asked for through the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// Power off.
    Shutdown,
    /// Reset.
    Reset,
    /// The guest's kernel crashed.
    Crash,
    /// Another event, by its number in the KVM API.
    Other(u32),
}

/// Decodes the exit in the run area at `run`, which is `size` bytes long.
///
/// # Safety
///
/// `run` points to a live run area of `size` bytes that nothing else accesses for `'a`, except other threads its byte
/// `immediate_exit`, and in which KVM_RUN has put an exit.
#[expect(unsafe_code, reason = "the kernel describes exits in a union within shared memory")]
pub(crate) unsafe fn decode<'a>(run: *mut kvm_run, size: usize) -> Exit<'a> {
    // SAFETY: the area is live (above) and exit_reason says which member of the union the kernel has filled. Only places
    // other than immediate_exit are touched, and no reference to the whole area is made.
    unsafe {
        let detail = &raw mut (*run).__bindgen_anon_1;
        match (*run).exit_reason {
            KVM_EXIT_IO => port_exit(run, size, (*detail).io),
            KVM_EXIT_MMIO => {
                let mmio = &mut (*detail).mmio;
                let length = mmio.data.len().min(mmio.len as usize);
                let data = &mut mmio.data[..length];
                if mmio.is_write == 0 {
                    Exit::MmioRead { address: mmio.phys_addr, data }
                } else {
                    Exit::MmioWrite { address: mmio.phys_addr, data }
                }
            }
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent(match (*detail).system_event.type_ {
                KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::Shutdown,
                KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
                KVM_SYSTEM_EVENT_CRASH => SystemEvent::Crash,
                other => SystemEvent::Other(other),
            }),
            KVM_EXIT_INTERNAL_ERROR => {
                let internal = &(*detail).internal;
                let words = internal.data.len().min(internal.ndata as usize);
                Exit::InternalError { suberror: internal.suberror, data: &internal.data[..words] }
            }
            KVM_EXIT_FAIL_ENTRY => {
                let failure = (*detail).fail_entry;
                Exit::FailEntry { reason: failure.hardware_entry_failure_reason, cpu: failure.cpu }
            }
            other => Exit::Other(other),
        }
    }
}

/// # Safety
///
/// As for [`decode`], and the exit is a port access described by `io`.
#[expect(unsafe_code, reason = "the data lies at an offset that the kernel gives")]
unsafe fn port_exit<'a>(
    run: *mut kvm_run,
    area: usize,
    io: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_4,
) -> Exit<'a> {
    let size = usize::from(io.size);
    let length = size * io.count as usize;
    let Some(offset) = usize::try_from(io.data_offset).ok().filter(|offset| offset + length <= area) else {
        // The kernel's own bound is one page at a page of its own within the area.
        return Exit::Other(KVM_EXIT_IO);
    };
    // SAFETY: the range was just checked to lie in the area, behind the structure; it is plain bytes.
    let data = unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().add(offset), length) };
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        Exit::PortOut { port: io.port, size, data }
    } else {
        Exit::PortIn { port: io.port, size, data }
    }
}
