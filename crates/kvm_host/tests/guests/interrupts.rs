//! Lines, messages and doorbells: into the guest and out of it.

use std::os::fd::{AsFd, OwnedFd};

use kvm_host::Exit;
use platform::{Doorbells, InterruptLine, MsiMessage, MsiSink};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::{ENTRY, Guest};

/// Interrupt vector that the guests here expect.
const VECTOR: u8 = 0x50;
/// To the vCPU with APIC id 0, fixed delivery, edge triggered (Intel SDM volume 3, section 11.11).
const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_0000, data: VECTOR as u32 };
/// What the guest writes to port 80h when it is ready, and port 81h when it was interrupted.
const READY: Exit<'static> = Exit::PortOut { port: 0x80, size: 1, data: &[0] };
const INTERRUPTED: Exit<'static> = Exit::PortOut { port: 0x81, size: 1, data: &[0] };

/// A guest that enables its local APIC and one vector, says that it is ready, and says so for each interrupt.
fn interruptible() -> Option<Guest> {
    let guest = Guest::new(&[
        0x0f, 0x01, 0x15, 0x00, 0x30, 0, 0, // lgdt [3000h]
        0x0f, 0x01, 0x1d, 0x08, 0x30, 0, 0, // lidt [3008h]
        0xbc, 0x00, 0x80, 0, 0, // mov esp, 8000h
        0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, // mov ecx, 1bh (APIC base); rdmsr
        0x0d, 0x00, 0x0c, 0, 0, 0x0f, 0x30, // or eax, c00h (x2APIC); wrmsr
        0xb9, 0x0f, 0x08, 0, 0, 0x31, 0xd2, // mov ecx, 80fh (spurious vector); xor edx, edx
        0xb8, 0xff, 0x01, 0, 0, 0x0f, 0x30, // mov eax, 1ffh (enabled); wrmsr
        0x31, 0xc0, 0xe6, 0x80, // xor eax, eax; out 80h, al
        0xfb, 0xf4, 0xeb, 0xfc, // again: sti; hlt; jmp again
    ])?;
    let put =
        |at: u64, bytes: &[u8]| guest.memory.write_slice(bytes, MemoryRegionAddress(at)).expect("in memory");
    // The handler never returns, so that a KVM that emulates protected mode can run it (IRET is not emulated).
    put(
        0x2000,
        &[
            0x31, 0xc0, 0xe6, 0x81, // xor eax, eax; out 81h, al
            0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xd2, 0x0f,
            0x30, // mov ecx, 80bh (end of interrupt); xor edx, edx; wrmsr
            0xbc, 0x00, 0x80, 0, 0, // mov esp, 8000h
            0xfb, 0xf4, 0xeb, 0xfc, // again: sti; hlt; jmp again
        ],
    );
    // Limits and bases of the descriptor tables: null, code, data; one gate.
    put(0x3000, &[0x17, 0, 0x00, 0x31, 0, 0]);
    put(0x3008, &[0xff, 0x07, 0x00, 0x40, 0, 0]);
    put(0x3108, &0x00cf_9b00_0000_ffff_u64.to_le_bytes());
    put(0x3110, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    // Interrupt gate to 8:2000h.
    put(0x4000 + 8 * u64::from(VECTOR), &0x0000_8e00_0008_2000_u64.to_le_bytes());
    Some(guest)
}

#[test]
fn a_signalled_message_interrupts_the_guest() {
    let Some(mut guest) = interruptible() else { return };
    let function = guest.vm.msi_function(2).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), READY);
    for _ in 0..3 {
        function.program(1, Some(MESSAGE)).unwrap();
        function.signal(1);
        assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);
    }
}

#[test]
fn a_descriptor_interrupts_the_guest_only_while_its_vector_is_programmed() {
    let Some(mut guest) = interruptible() else { return };
    let function = guest.vm.msi_function(1).unwrap();
    let event = function.event(0).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), READY);
    let ring = || rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();

    function.program(0, Some(MESSAGE)).unwrap();
    ring();
    let mut waiting = [PollFd::new(&event, PollFlags::IN)];
    assert_eq!(poll(&mut waiting, Some(&Timespec::default())), Ok(0), "the kernel took it");
    assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);

    function.program(0, None).unwrap();
    ring();
    // Nobody in the kernel took it.
    let mut waiting = [PollFd::new(&event, PollFlags::IN)];
    assert_eq!(poll(&mut waiting, Some(&Timespec::default())), Ok(1));
    // What came while masked is delivered when the vector is programmed again.
    function.program(0, Some(MESSAGE)).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);
}

#[test]
fn a_descriptor_taken_after_programming_works_at_once() {
    let Some(mut guest) = interruptible() else { return };
    let function = guest.vm.msi_function(1).unwrap();
    function.program(0, Some(MESSAGE)).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), READY);
    rustix::io::write(function.event(0).unwrap(), &1u64.to_ne_bytes()).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);
}

#[test]
fn functions_give_their_routes_back() {
    let Some(guest) = Guest::new(&[]) else { return };
    // More in all than the machine has routes for.
    for _ in 0..5 {
        let function = guest.vm.msi_function(1024).unwrap();
        for vector in 0..1024 {
            assert!(function.event(vector).is_some(), "vector {vector}");
        }
    }
}

#[test]
fn vectors_that_do_not_exist_are_refused() {
    let Some(guest) = Guest::new(&[]) else { return };
    let function = guest.vm.msi_function(2).unwrap();
    assert!(function.program(2, Some(MESSAGE)).is_err());
    assert!(function.event(2).is_none());
    function.signal(2);
    assert!(guest.vm.msi_function(2049).is_err());
    assert!(guest.vm.interrupt_line(24).is_err());
}

#[test]
fn a_line_interrupts_through_the_io_apic() {
    let Some(mut guest) = interruptible() else { return };
    let line = guest.vm.interrupt_line(5).unwrap();
    // Before it says that it is ready, the guest routes pin 5: redirection registers 1ah and 1bh.
    let prologue: &[u8] = &[
        0xb0, 0xff, 0xe6,
        0x21, // mov al, ffh; out 21h, al: the 8259 has the line too, and LINT0 listens to it
        0xb8, 0x00, 0x00, 0xc0, 0xfe, // mov eax, fec00000h
        0xc6, 0x00, 0x1a, // mov byte [eax], 1ah
        0xc7, 0x40, 0x10, VECTOR, 0, 0, 0, // mov dword [eax + 10h], vector, edge triggered, unmasked
        0xc6, 0x00, 0x1b, // mov byte [eax], 1bh
        0xc7, 0x40, 0x10, 0, 0, 0, 0, // mov dword [eax + 10h], APIC id 0
    ];
    let mut body = vec![0; 64];
    guest.memory.read_slice(&mut body, MemoryRegionAddress(ENTRY.into())).unwrap();
    let code = [prologue, &body].concat();
    guest.memory.write_slice(&code, MemoryRegionAddress(ENTRY.into())).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), READY);
    line.pulse();
    assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);
    line.pulse();
    assert_eq!(guest.vcpu.run().unwrap(), INTERRUPTED);
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

fn rings(bell: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(bell, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_bound_doorbell_rings_for_writes_of_any_width_and_does_not_exit() {
    // again: mov [d0000000h], al; mov [d0000000h], ax; mov [d0000000h], eax; mov [d0000004h], eax; jmp again
    let code = [
        b"\xa2\x00\x00\x00\xd0".as_slice(),
        b"\x66\xa3\x00\x00\x00\xd0",
        b"\xa3\x00\x00\x00\xd0",
        b"\xa3\x04\x00\x00\xd0",
        b"\xeb\xe9",
    ]
    .concat();
    let Some(mut guest) = Guest::new(&code) else { return };
    let bell = bell();
    guest.vm.bind(0xd000_0000, bell.as_fd()).unwrap();
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::MmioWrite { address: 0xd000_0004, .. }));
    assert_eq!(rings(&bell), 3);
    assert!(guest.vm.bind(0xd000_0000, bell.as_fd()).is_err(), "bound already");
    guest.vm.unbind(0xd000_0000, bell.as_fd()).unwrap();
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::MmioWrite { address: 0xd000_0000, .. }));
    assert_eq!(rings(&bell), 0);
    assert!(guest.vm.unbind(0xd000_0000, bell.as_fd()).is_err(), "unbound already");
}

#[test]
fn a_doorbell_below_four_gigabytes_and_above_works() {
    let Some(guest) = Guest::new(&[]) else { return };
    let bell = bell();
    for address in [0x1000, 0xffff_fffc, 0x10_0000_0000] {
        guest.vm.bind(address, bell.as_fd()).unwrap();
        guest.vm.unbind(address, bell.as_fd()).unwrap();
    }
}

#[test]
fn an_nmi_reaches_the_guest() {
    let Some(mut guest) = interruptible() else { return };
    // Vector 2 to a handler that writes port 82h.
    guest.memory.write_slice(&[0xe6, 0x82, 0xcf], MemoryRegionAddress(0x2100)).unwrap();
    let gate = 0x0000_8e00_0008_2100_u64.to_le_bytes();
    guest.memory.write_slice(&gate, MemoryRegionAddress(0x4000 + 8 * 2)).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), READY);
    guest.vcpu.inject_nmi().unwrap();
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x82, .. }));
}
