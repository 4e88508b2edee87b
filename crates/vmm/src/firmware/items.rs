//! What firmware is told of this machine, as items of [`platform::firmware_configuration`].
//!
//! | item | what |
//! |---|---|
//! | `etc/e820` | where RAM is |
//! | `etc/acpi/...`, `etc/table-loader` | tables, made when they are asked for: the firmware has placed PCI by then |
//! | numbers of vCPUs | as told by the specification |
//! | `bootorder` | devices in the order in which they are tried |
//! | `etc/sercon-port` | SeaBIOS: the serial port on which its screen is shown too |

use platform::board;
use platform::firmware_configuration::{Items, item};

use super::FirmwareError;
use crate::acpi::AcpiFiles;
use crate::layout::MemoryLayout;

/// Type of RAM in the memory map.
const RAM: u32 = 1;

/// What has to be known of a machine.
pub(crate) struct Told<'a> {
    pub(crate) layout: &'a MemoryLayout,
    pub(crate) vcpus: u16,
    /// One more than the largest local APIC identifier.
    pub(crate) apic_ids: u16,
    /// The serial port is there.
    pub(crate) serial: bool,
    /// Devices to boot from, by their names in Open Firmware.
    pub(crate) boot_order: &'a [String],
}

impl Told<'_> {
    /// The items, with tables from `tables`.
    ///
    /// # Errors
    /// Something can't be told.
    pub(crate) fn items(
        &self,
        tables: AcpiFiles,
        mut now: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Items, FirmwareError> {
        let mut items = Items::new();
        items.set(item::CPU_COUNT, self.vcpus.to_le_bytes());
        items.set(item::MOST_CPUS, self.apic_ids.to_le_bytes());
        items.add("etc/e820", self.memory_map())?;
        items.add("etc/max-cpus", self.apic_ids.to_le_bytes())?;
        items.add(AcpiFiles::LOADER, tables.loader)?;
        items.add(AcpiFiles::ROOT_POINTER, tables.root_pointer)?;
        let first = tables.tables;
        let length = first.len();
        items.add_made(AcpiFiles::TABLES, length, move || now().unwrap_or_else(|| first.clone()))?;
        if self.serial {
            let port = u16::try_from(board::SERIAL_PORTS.start).unwrap_or(0);
            items.add("etc/sercon-port", port.to_le_bytes())?;
        }
        if !self.boot_order.is_empty() {
            let mut order = self.boot_order.join("\n").into_bytes();
            order.push(0);
            items.add("bootorder", order)?;
        }
        Ok(items)
    }

    /// Entries of address, length and type; only RAM, for firmware knows the rest of the board.
    fn memory_map(&self) -> Vec<u8> {
        let entry = |range: std::ops::Range<u64>| {
            let mut entry = range.start.to_le_bytes().to_vec();
            entry.extend((range.end - range.start).to_le_bytes());
            entry.extend(RAM.to_le_bytes());
            entry
        };
        self.layout.ram().flat_map(entry).collect()
    }
}
