//! The contract between an access by a vCPU and the device behind it.

/// A device's registers, as reached through port I/O or memory-mapped I/O.
///
/// Called by the vCPU thread that made the access, with only the device's own lock held. `offset` is relative to the
/// start of the range at which the device was placed and always lies inside it; `data` is 1 to 8 bytes long and may
/// reach past the range's end or be misaligned: the device decides what such an access means and must not panic.
pub trait RegisterFile: Send {
    /// Fills `data` with what the guest reads. Bytes that the device does not define read as zero or all ones, never
    /// as bytes of the host.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes what the guest wrote. The returned effect is carried out by the caller after the device's lock is released.
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect;
}

/// What an access by the guest asks of the machine around the device.
#[must_use = "an effect that is dropped is a request of the guest that is lost"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing beyond the device itself.
    None,
    /// The guest asked the machine for something.
    Ask(VmRequest),
}

/// What a guest can ask of the machine that it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmRequest {
    /// Power off (ACPI S5).
    PowerOff,
    /// Reset the whole machine (i8042 pulse, port CF9h, ACPI reset register).
    Reset,
}
