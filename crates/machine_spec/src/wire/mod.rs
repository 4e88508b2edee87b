//! The control API's data: the JSON that clients send and receive.
//!
//! Names, shapes and required fields are those of Cloud Hypervisor's API v1 (its published OpenAPI document), so that
//! its clients can drive this VMM. Two rules keep a client from believing in something that does not happen:
//!
//! - a field that API does not have is refused ("unknown field");
//! - a field that it has and this VMM does not honour is known by name and accepted only with a value that changes
//!   nothing (absent, null, its default); any other value is refused with an error that names the field.
//!
//! Additions are two fields of [`VmConfig`], `console_ports` and `on_reset`, two of [`DiskConfig`], `backing_directories` and
//! `cache`, and one of [`BalloonConfig`], `statistics_period`.
//!
//! What comes in here is untrusted; a value that has been parsed has the right shape, not yet the right content:
//! [`crate::MachineSpec::from_config`] checks that.

mod config;
mod disk;
mod info;
mod mac;
#[cfg(test)]
mod tests;
pub(crate) mod unsupported;

pub use config::{
    BalloonConfig, ConsoleConfig, ConsoleMode, ConsolePortConfig, CpuTopologyConfig, CpusConfig,
    MemoryConfig, NetConfig, OnResetConfig, PayloadConfig, PlatformConfig, RngConfig, SerialConfig, VmConfig,
};
pub use disk::{CacheMode, DiskConfig, ImageType, VmResizeDisk};
pub use info::{VmCounters, VmInfo, VmResize, VmSetLink, VmState, VmmPingResponse};
pub use mac::{MacAddress, MacAddressError};
