//! The devices that every machine has, put where `platform::board` says.

use std::sync::Arc;

use kvm_host::{Topology, Vm};
use parking_lot::Mutex;
use platform::firmware_configuration::FirmwareConfiguration;
use platform::i8042::I8042;
use platform::pci::{ConfigPorts, HostBridge, LpcBridge, PciRoot};
use platform::power::{AcpiMode, PowerEvents, power_management};
use platform::rtc::{MemorySize, Rtc};
use platform::system_ports::{PostCode, SystemControl};
use platform::uart::Uart;
use platform::{InterruptLine, RegisterFile, SharedDevice, board};
use vm_memory::GuestMemoryMmap;

use super::error::BuildError;
use super::resources::HostResources;
use crate::acpi::{AcpiFiles, AcpiMachine, AcpiTables, IntervalTimer, LegacyDevices, PciPlaces};
use crate::firmware::items::Told;
use crate::layout::{self, MemoryLayout};
use crate::vcpu_thread::AddressSpaces;

/// The board as far as the machine has to reach it after it was built.
#[derive(Debug)]
pub(super) struct Board {
    power: PowerEvents,
    legacy: LegacyDevices,
}

impl Board {
    /// Places every device of the board.
    pub(super) fn build(
        spaces: &AddressSpaces,
        pci: &Arc<PciRoot>,
        vm: &Arc<Vm>,
        layout: &MemoryLayout,
        resources: &HostResources,
    ) -> Result<Self, BuildError> {
        let line =
            |gsi| -> Result<Arc<dyn InterruptLine>, BuildError> { Ok(Arc::new(vm.interrupt_line(gsi)?)) };
        let ports = &spaces.ports;

        // Firmware finds the board as after power-on, a kernel as firmware would leave it.
        let with_firmware = resources.firmware.is_some();
        let host_bridge = HostBridge::new((!with_firmware).then_some(layout::ECAM.start));
        pci.insert_host_bridge(board::HOST_BRIDGE, Arc::new(Mutex::new(host_bridge)))?;
        pci.insert(board::LPC_BRIDGE, Arc::new(Mutex::new(LpcBridge::new())))?;
        ports.insert(board::PCI_CONFIG_PORTS, shared(ConfigPorts::new(Arc::clone(pci))))?;

        let mode = if with_firmware { AcpiMode::OnRequest } else { AcpiMode::FromStart };
        let (block, apm, power) = power_management(line(board::SCI_IRQ)?, mode);
        ports.insert(board::PM_PORTS, shared(block))?;
        ports.insert(board::APM_PORTS, shared(apm))?;

        let (data, command) = I8042::new(line(board::KEYBOARD_IRQ)?).into_ports();
        ports.insert(one(board::I8042_DATA_PORT), data)?;
        ports.insert(one(board::I8042_COMMAND_PORT), command)?;

        let size = MemorySize {
            below_4g: layout.low_ram().end,
            above_4g: layout.high_ram().map_or(0, |range| range.end - range.start),
        };
        let rtc = Rtc::new(line(board::RTC_IRQ)?, size, &resources.worker)
            .map_err(|source| BuildError::Host { what: "starting the real-time clock".into(), source })?;
        ports.insert(board::RTC_PORTS, shared(rtc))?;
        ports.insert(board::SYSTEM_CONTROL_PORTS, shared(SystemControl::new()))?;
        ports.insert(board::POST_PORTS, shared(PostCode::default()))?;

        if let Some(backend) = &resources.serial {
            let uart = Uart::new(line(board::SERIAL_IRQ)?, Arc::clone(backend));
            ports.insert(board::SERIAL_PORTS, shared(uart))?;
        }
        let legacy = LegacyDevices {
            pic: true,
            serial: resources.serial.is_some(),
            real_time_clock: true,
            keyboard_controller: true,
        };
        Ok(Self { power, legacy })
    }

    /// Describes the board to the guest; the address of the tables' root.
    pub(super) fn write_acpi(
        &self,
        memory: &GuestMemoryMmap<()>,
        topology: Topology,
        layout: &MemoryLayout,
    ) -> Result<u64, BuildError> {
        let apic_ids = apic_ids(topology);
        let tables = AcpiTables::build(&AcpiMachine {
            pci: PciPlaces::of(layout),
            apic_ids: &apic_ids,
            interval_timer: IntervalTimer::PinZero,
            legacy: self.legacy,
        })?;
        tables
            .write(memory)
            .map_err(|error| BuildError::Board(format!("writing the ACPI tables: {error}")))?;
        Ok(tables.root_pointer())
    }

    /// Makes the device that describes the machine to firmware.
    pub(super) fn tell_firmware(
        &self,
        spaces: &AddressSpaces,
        pci: &Arc<PciRoot>,
        memory: &GuestMemoryMmap<()>,
        topology: Topology,
        layout: &MemoryLayout,
        boot_order: &[String],
    ) -> Result<(), BuildError> {
        let apic_ids = apic_ids(topology);
        let told = Told {
            layout,
            vcpus: u16::try_from(topology.vcpus()).unwrap_or(u16::MAX),
            apic_ids: apic_ids.iter().max().map_or(1, |most| u16::try_from(most + 1).unwrap_or(u16::MAX)),
            serial: self.legacy.serial,
            boot_order,
        };
        let legacy = self.legacy;
        let build = move |pci: PciPlaces| {
            AcpiFiles::build(&AcpiMachine {
                pci,
                apic_ids: &apic_ids,
                interval_timer: IntervalTimer::PinZero,
                legacy,
            })
        };
        let first = PciPlaces::of(layout);
        let tables = build(first.clone())?;
        let root = Arc::downgrade(pci);
        let now = move || {
            let root = root.upgrade()?;
            build(first.placed(&root.mapped())).ok().map(|files| files.tables)
        };
        let device = FirmwareConfiguration::new(told.items(tables, now)?, memory.clone());
        spaces.ports.insert(board::FIRMWARE_CONFIGURATION_PORTS, shared(device))?;
        Ok(())
    }

    pub(super) fn press_power_button(&self) {
        self.power.press_power_button();
    }
}

fn apic_ids(topology: Topology) -> Vec<u32> {
    (0..topology.vcpus()).map(|index| topology.apic_id(index)).collect()
}

fn shared(device: impl RegisterFile + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn one(port: u16) -> std::ops::Range<u64> {
    u64::from(port)..u64::from(port) + 1
}
