//! What a machine is, as data: the control API's wire types, the command line's spelling of them, and the internal
//! specification that both become. Pure: nothing here opens a file or knows a device.
//!
//! Two layers. [`wire`] has the JSON of the control API (flat, optional, forgiving only where the API's clients need it);
//! [`spec`] is what the VMM builds from, in which bad combinations can't be expressed. Conversion checks and explains.
//! [`flags`] is another spelling of [`wire`], so that a machine is the same whichever way it was described.
//!
//! Trusts nobody: a description is checked whole before anything is made of it. Owns no threads and no descriptors.

mod convert;
mod error;
pub mod flags;
pub mod spec;
#[cfg(test)]
mod strategies;
pub mod wire;

pub use error::SpecError;
pub use spec::MachineSpec;
