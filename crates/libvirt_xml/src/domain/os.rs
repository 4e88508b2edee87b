//! How a guest boots, and what its firmware says about the machine (formatdomain, "Operating system booting", "SMBIOS System Information").
//!
//! Refused: boot loaders of the host, device trees, init programs of containers, NVRAM anywhere but in a file.

use crate::model::model;
use crate::tree::Kept;
use crate::value::{YesNo, words};

words! {
    /// Firmware that is chosen for the user.
    pub enum Firmware { Efi = "efi", Bios = "bios", }

    /// Operating systems: fully virtualized ones.
    pub enum OsTypeName { Hvm = "hvm", }
    refused "xen", "linux", "exe", "uml", "xenpvh";

    /// What a guest boots from.
    pub enum BootDevice { Hd = "hd", Cdrom = "cdrom", Network = "network", Fd = "fd", }

    /// How firmware is mapped.
    pub enum LoaderType { Pflash = "pflash", Rom = "rom", }

    /// Where SMBIOS tables come from.
    pub enum SmbiosMode { Emulate = "emulate", Host = "host", Sysinfo = "sysinfo", }

    /// Properties of firmware.
    pub enum FirmwareFeatureName { EnrolledKeys = "enrolled-keys", SecureBoot = "secure-boot", }

    /// Formats of firmware images.
    pub enum FirmwareFormat { Raw = "raw", Qcow2 = "qcow2", }

    /// ACPI tables that can be added.
    pub enum AcpiTableType { Slic = "slic", Raw = "raw", Rawset = "rawset", Msdm = "msdm", }

    /// What system information is.
    pub enum SysinfoType { Smbios = "smbios", Fwcfg = "fwcfg", }

    /// What kind of source NVRAM has.
    pub enum NvramType { File = "file", }
    refused "block", "network", "volume", "dir";
}

model! {
    /// Machine and operating system.
    pub struct OsType {
        /// Architecture.
        arch: attribute("arch") => Option<String>,
        /// Machine.
        machine: attribute("machine") => Option<String>,
        /// Kind of virtualization.
        name: text => OsTypeName,
    }

    /// A property that firmware must have, or must not.
    pub struct FirmwareFeature {
        /// Whether.
        enabled: required("enabled") => YesNo,
        /// Which.
        name: required("name") => FirmwareFeatureName,
    }

    /// A firmware image.
    pub struct Loader {
        /// Whether the guest can't write.
        readonly: attribute("readonly") => Option<YesNo>,
        /// Whether it needs System Management Mode.
        secure: attribute("secure") => Option<YesNo>,
        /// How it is mapped.
        kind: attribute("type") => Option<LoaderType>,
        /// Whether it works without NVRAM.
        stateless: attribute("stateless") => Option<YesNo>,
        /// Format.
        format: attribute("format") => Option<FirmwareFormat>,
        /// Path.
        path: own_text => Option<String>,
    }

    /// Variables of firmware.
    pub struct Nvram {
        /// What it is made from.
        template: attribute("template") => Option<String>,
        /// Format of the template.
        template_format: attribute("templateFormat") => Option<FirmwareFormat>,
        /// Kind of source.
        kind: attribute("type") => Option<NvramType>,
        /// Format.
        format: attribute("format") => Option<FirmwareFormat>,
        /// Path, of documents without a type.
        path: own_text => Option<String>,
        /// Source, of documents with a type.
        source: child("source") => Option<super::disk::DiskSource>,
    }

    /// A file with an ACPI table.
    pub struct AcpiTable {
        /// Kind.
        kind: required("type") => AcpiTableType,
        /// Path.
        path: text => String,
    }

    /// A kind of device to boot from.
    pub struct OsBoot {
        /// Which.
        dev: required("dev") => BootDevice,
    }

    /// A menu before booting.
    pub struct BootMenu {
        /// Whether.
        enable: required("enable") => YesNo,
        /// Milliseconds.
        timeout: attribute("timeout") => Option<u32>,
    }

    /// Settings of a BIOS.
    pub struct Bios {
        /// Messages on a serial port.
        use_serial: attribute("useserial") => Option<YesNo>,
        /// Milliseconds until it tries again; -1 is never.
        reboot_timeout: attribute("rebootTimeout") => Option<i32>,
    }

    /// SMBIOS tables.
    pub struct Smbios {
        /// Where they come from.
        mode: required("mode") => SmbiosMode,
    }

    /// How a guest boots.
    pub struct Os {
        /// Firmware that is chosen for the user.
        firmware: attribute("firmware") => Option<Firmware>,
        /// Machine.
        kind: always("type") => OsType,
        /// Properties of firmware.
        firmware_features: list("firmware", "feature") => Vec<FirmwareFeature>,
        /// Firmware image.
        loader: child("loader") => Option<Loader>,
        /// Variables of firmware.
        nvram: child("nvram") => Option<Nvram>,
        /// Path of a kernel.
        kernel: field("kernel") => Option<String>,
        /// Path of an initial file system.
        initrd: field("initrd") => Option<String>,
        /// The kernel's command line.
        cmdline: field("cmdline") => Option<String>,
        /// ACPI tables.
        acpi_tables: list("acpi", "table") => Vec<AcpiTable>,
        /// What is tried, in order.
        boot: children("boot") => Vec<OsBoot>,
        /// A menu.
        boot_menu: child("bootmenu") => Option<BootMenu>,
        /// Settings of a BIOS.
        bios: child("bios") => Option<Bios>,
        /// SMBIOS tables.
        smbios: child("smbios") => Option<Smbios>,
    }

    /// A value of system information.
    pub struct SysinfoEntry {
        /// Name.
        name: attribute("name") => Option<String>,
        /// Of firmware configuration: a file with the value.
        file: attribute("file") => Option<String>,
        /// Value.
        value: own_text => Option<String>,
    }

    /// A table of system information.
    pub struct SysinfoTable {
        /// Values.
        entries: children("entry") => Vec<SysinfoEntry>,
    }

    /// System information.
    pub struct Sysinfo {
        /// Kind.
        kind: required("type") => SysinfoType,
        /// SMBIOS type 0.
        bios: child("bios") => Option<SysinfoTable>,
        /// SMBIOS type 1.
        system: child("system") => Option<SysinfoTable>,
        /// SMBIOS type 2.
        base_boards: children("baseBoard") => Vec<SysinfoTable>,
        /// SMBIOS type 3.
        chassis: child("chassis") => Option<SysinfoTable>,
        /// SMBIOS type 11.
        oem_strings: child("oemStrings") => Option<SysinfoTable>,
        /// Firmware configuration.
        entries: children("entry") => Vec<SysinfoEntry>,
        /// Tables that only the host's own information has.
        others: kept("processor", "memory_device") => Kept,
    }
}
