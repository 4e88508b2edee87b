//! What a machine is, as data: the control API's wire types, the command line's spelling of them, and the internal
//! specification that both become. Pure: nothing here opens a file or knows a device.
//!
//! Two layers. [`wire`] has the JSON of the control API (flat, optional, forgiving only where the API's clients need it);
//! [`spec`] is what the VMM builds from, in which bad combinations can't be expressed. Conversion checks and explains.

pub mod spec;

pub use spec::MachineSpec;
