//! Every exit that a machine lives on, and memory slots.

use kvm_host::{Exit, MemorySlot, SlotAccess};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::{ENTRY, Guest, region};

#[test]
fn a_port_write_and_a_port_read_exit_and_complete() {
    // mov dx, 3f8h; mov al, 'A'; out dx, al; in al, dx; out dx, al; hlt
    let code = b"\x66\xba\xf8\x03\xb0A\xee\xec\xee\xf4";
    let Some(mut guest) = Guest::new(code) else { return };
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x3f8, size: 1, data: b"A" });
    match guest.vcpu.run().unwrap() {
        Exit::PortIn { port: 0x3f8, size: 1, data } => data.copy_from_slice(b"z"),
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x3f8, size: 1, data: b"z" });
}

#[test]
fn the_pvh_state_gives_the_start_info_in_ebx() {
    // mov eax, ebx; mov dx, 600h; out dx, eax
    let Some(mut guest) = Guest::new(b"\x89\xd8\x66\xba\x00\x06\xef") else { return };
    let expected = 0x2000u32.to_le_bytes();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x600, size: 4, data: &expected });
}

#[test]
fn string_output_arrives_as_several_accesses() {
    // mov esi, 1020h; mov ecx, 3; mov dx, 80h; cld; rep outsw
    let mut code = b"\xbe\x20\x10\x00\x00\xb9\x03\x00\x00\x00\x66\xba\x80\x00\xfc\xf3\x66\x6f".to_vec();
    code.resize(0x20, 0xf4);
    code.extend_from_slice(b"abcdef");
    let Some(mut guest) = Guest::new(&code) else { return };
    let mut all = Vec::new();
    while all.len() < 6 {
        match guest.vcpu.run().unwrap() {
            Exit::PortOut { port: 0x80, size: 2, data } => all.extend_from_slice(data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all, b"abcdef");
}

#[test]
fn an_address_without_memory_exits_as_mmio() {
    // mov eax, [d0000000h]; mov [d0000008h], eax; hlt
    let Some(mut guest) = Guest::new(b"\xa1\x00\x00\x00\xd0\xa3\x08\x00\x00\xd0\xf4") else { return };
    match guest.vcpu.run().unwrap() {
        Exit::MmioRead { address: 0xd000_0000, data } => data.copy_from_slice(&[1, 2, 3, 4]),
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.vcpu.run().unwrap(), Exit::MmioWrite { address: 0xd000_0008, data: &[1, 2, 3, 4] });
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    // ud2, and there is no interrupt table to find a handler in
    let Some(mut guest) = Guest::new(b"\x0f\x0b") else { return };
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Shutdown);
}

#[test]
fn a_read_only_slot_is_read_as_memory_and_written_as_mmio() {
    // mov eax, [20000h]; out 80h, eax; mov [20000h], eax; hlt
    let code = b"\xa1\x00\x00\x02\x00\xe7\x80\xa3\x00\x00\x02\x00\xf4";
    let rom = region(0x2_0000, 0x1000);
    rom.write_slice(b"ROM!", MemoryRegionAddress(0)).unwrap();
    let slot = MemorySlot::new(1, &rom, SlotAccess::ReadOnly);
    let Some(mut guest) = Guest::with(code, vec![slot]) else { return };
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x80, size: 4, data: b"ROM!" });
    assert_eq!(guest.vcpu.run().unwrap(), Exit::MmioWrite { address: 0x2_0000, data: b"ROM!" });
}

#[test]
fn memory_added_and_removed_later_appears_and_disappears() {
    // again: mov eax, [20000h]; out 80h, eax; jmp again
    let Some(mut guest) = Guest::new(b"\xa1\x00\x00\x02\x00\xe7\x80\xeb\xf7") else { return };
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::MmioRead { address: 0x2_0000, .. }));
    let more = region(0x2_0000, 0x1000);
    more.write_slice(b"more", MemoryRegionAddress(0)).unwrap();
    guest.vm.add_memory(MemorySlot::new(5, &more, SlotAccess::ReadWrite)).unwrap();
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortOut { .. }), "the interrupted read completes");
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x80, size: 4, data: b"more" });
    guest.vm.remove_memory(5).unwrap();
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::MmioRead { address: 0x2_0000, .. }));
    assert!(guest.vm.remove_memory(5).is_err());
}

#[test]
fn overlapping_memory_is_refused() {
    let Some(guest) = Guest::new(&[]) else { return };
    let error = guest.vm.add_memory(MemorySlot::new(5, &region(0xf000, 0x2000), SlotAccess::ReadWrite));
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("setting memory slot 5 at 0xf000, 8192 bytes: "), "{error}");
}

#[test]
fn a_logged_slot_tells_which_pages_were_written() {
    // mov [21000h], eax; out 80h, eax
    let Some(mut guest) = Guest::new(b"\xa3\x00\x10\x02\x00\xe7\x80") else { return };
    let logged = region(0x2_0000, 0x4000);
    guest.vm.add_memory(MemorySlot::new(1, &logged, SlotAccess::Logged)).unwrap();
    assert_eq!(guest.vm.dirty_pages(1).unwrap(), [0]);
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortOut { .. }));
    assert_eq!(guest.vm.dirty_pages(1).unwrap(), [0b10]);
    assert_eq!(guest.vm.dirty_pages(1).unwrap(), [0]);
    assert!(guest.vm.dirty_pages(0).is_err());
}

#[test]
fn a_register_dump_shows_registers_and_code() {
    // mov eax, 12345678h; out 80h, al; ud2
    let Some(mut guest) = Guest::new(b"\xb8\x78\x56\x34\x12\xe6\x80\x0f\x0b") else { return };
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortOut { .. }));
    let registers = guest.vcpu.registers().unwrap();
    assert_eq!(registers.general()[0], 0x1234_5678);
    assert!((u64::from(ENTRY) + 5..=u64::from(ENTRY) + 7).contains(&registers.instruction_pointer()));
    let text = registers.to_string();
    assert!(text.contains("rax 0000000012345678"), "{text}");
    assert!(text.lines().last().unwrap().contains("0f 0b"), "{text}");
}
