//! What the firmware says about the machine: the strings of SMBIOS that the kernel shows in /sys/class/dmi/id (SMBIOS reference
//! specification, types 0 to 3; Linux, drivers/firmware/dmi-id.c).

use std::io;

use crate::{Host, HostError};

/// A table of SMBIOS: its strings, by the names that libvirt's `<sysinfo type='smbios'>` has for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbiosTable {
    /// Which one: `bios`, `system`, `baseBoard` or `chassis`.
    pub name: &'static str,
    /// Name and content of each string that is there.
    pub strings: Vec<(&'static str, String)>,
}

const DIRECTORY: &str = "sys/class/dmi/id";

/// Each string's name, and its file.
type Strings = &'static [(&'static str, &'static str)];

const TABLES: [(&str, Strings); 4] = [
    (
        "bios",
        &[
            ("vendor", "bios_vendor"),
            ("version", "bios_version"),
            ("date", "bios_date"),
            ("release", "bios_release"),
        ],
    ),
    (
        "system",
        &[
            ("manufacturer", "sys_vendor"),
            ("product", "product_name"),
            ("version", "product_version"),
            ("serial", "product_serial"),
            ("uuid", "product_uuid"),
            ("sku", "product_sku"),
            ("family", "product_family"),
        ],
    ),
    (
        "baseBoard",
        &[
            ("manufacturer", "board_vendor"),
            ("product", "board_name"),
            ("version", "board_version"),
            ("serial", "board_serial"),
            ("asset", "board_asset_tag"),
        ],
    ),
    (
        "chassis",
        &[
            ("manufacturer", "chassis_vendor"),
            ("version", "chassis_version"),
            ("serial", "chassis_serial"),
            ("asset", "chassis_asset_tag"),
        ],
    ),
];

impl Host {
    /// The firmware's tables that say something; none on a machine without SMBIOS. Serial numbers are there for root only.
    pub fn smbios(&self) -> Result<Vec<SmbiosTable>, HostError> {
        let mut tables = Vec::new();
        for (name, files) in TABLES {
            let mut strings = Vec::new();
            for (string, file) in files {
                strings.extend(self.smbios_string(file)?.map(|content| (*string, content)));
            }
            if !strings.is_empty() {
                tables.push(SmbiosTable { name, strings });
            }
        }
        Ok(tables)
    }

    fn smbios_string(&self, file: &str) -> Result<Option<String>, HostError> {
        let path = self.root.join(DIRECTORY).join(file);
        match std::fs::read(&path) {
            Ok(bytes) => {
                // Firmware writes what it likes; documents can't hold all of it.
                let text = String::from_utf8_lossy(&bytes);
                let text: String = text.trim().chars().filter(|character| !character.is_control()).collect();
                Ok((!text.is_empty()).then_some(text))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            Err(source) => Err(HostError::Unreadable { path, source }),
        }
    }
}
