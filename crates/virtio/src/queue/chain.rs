//! A chain of buffers and access to what is in them.

use std::marker::PhantomData;
use std::ptr::NonNull;

use block_io::Segment;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, Permissions, VolatileSlice};
use zerocopy::{FromBytes, IntoBytes};

use super::QueueFault;
use super::walk::Walked;
use crate::device::GuestMemory;

/// A piece of guest memory. It was inside guest memory when it was taken from the ring, and is never empty there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Start.
    pub address: GuestAddress,
    /// Length.
    pub bytes: u32,
}

/// A request of the driver: buffers that the device reads, then buffers that it writes (virtio 1.2, 2.7.4). The addresses
/// are our own copy; what they point at may still change under the reader.
///
/// Goes back with [`super::Queue::complete`] or [`super::Queue::undo_pop`]; a chain that is dropped stays in flight until
/// the device is reset.
#[derive(Debug)]
#[must_use = "a chain that is not given back is lost to the driver until it resets the device"]
pub struct Chain {
    head: u16,
    position: u16,
    buffers: Vec<Buffer>,
    readable: usize,
    readable_bytes: u32,
    writable_bytes: u32,
}

impl Chain {
    pub(super) fn new(head: u16, position: u16, buffers: Vec<Buffer>, found: &Walked) -> Self {
        let Walked { readable, readable_bytes, writable_bytes } = *found;
        Self { head, position, buffers, readable, readable_bytes, writable_bytes }
    }

    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// The available index at which the chain was taken.
    pub(super) fn position(&self) -> u16 {
        self.position
    }

    pub(super) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }

    /// What the driver wrote for the device.
    pub fn readable(&self) -> Buffers<'_, Readable> {
        Buffers::new(&self.buffers[..self.readable], self.readable_bytes)
    }

    /// What the device may write.
    pub fn writable(&self) -> Buffers<'_, Writable> {
        Buffers::new(&self.buffers[self.readable..], self.writable_bytes)
    }

    /// Length of the readable part.
    pub fn readable_bytes(&self) -> u32 {
        self.readable_bytes
    }

    /// Length of the writable part.
    pub fn writable_bytes(&self) -> u32 {
        self.writable_bytes
    }
}

/// Marks buffers that the device reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {}

/// Marks buffers that the device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {}

/// A stretch of one part of a chain, without regard to where its buffers begin and end. Reading and writing consume it from
/// the front, so it is a cursor as well; it is small and cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffers<'c, Access> {
    buffers: &'c [Buffer],
    /// Bytes of the first buffer that are not part of the stretch.
    skip: u32,
    /// Length of the stretch, which may end inside a buffer.
    bytes: u32,
    access: PhantomData<Access>,
}

impl<'c, Access> Buffers<'c, Access> {
    fn new(buffers: &'c [Buffer], bytes: u32) -> Self {
        Self { buffers, skip: 0, bytes, access: PhantomData }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The pieces of guest memory, in order; none of them is empty.
    pub fn iter(&self) -> impl Iterator<Item = Buffer> + use<'c, Access> {
        let mut skip = self.skip;
        let mut left = self.bytes;
        self.buffers.iter().map_while(move |buffer| {
            let bytes = buffer.bytes.checked_sub(skip)?.min(left);
            let address = GuestAddress(buffer.address.0 + u64::from(skip));
            skip = 0;
            left -= bytes;
            (bytes != 0).then_some(Buffer { address, bytes })
        })
    }

    /// Cuts off and returns the first `bytes` bytes.
    ///
    /// # Errors
    /// [`QueueFault::TooShort`] when there are fewer; nothing is cut off.
    pub fn take(&mut self, bytes: u32) -> Result<Self, QueueFault> {
        if bytes > self.bytes {
            return Err(self.too_short(bytes as usize));
        }
        let taken = Self { buffers: self.buffers, skip: self.skip, bytes, access: PhantomData };
        self.bytes -= bytes;
        let mut skip = bytes;
        while let [first, rest @ ..] = self.buffers {
            let here = first.bytes - self.skip;
            if skip < here {
                self.skip += skip;
                break;
            }
            skip -= here;
            self.skip = 0;
            self.buffers = rest;
        }
        Ok(taken)
    }

    /// Cuts off and returns the last `bytes` bytes, where a device puts a status.
    ///
    /// # Errors
    /// As [`Buffers::take`].
    pub fn take_last(&mut self, bytes: u32) -> Result<Self, QueueFault> {
        let Some(front) = self.bytes.checked_sub(bytes) else {
            return Err(self.too_short(bytes as usize));
        };
        let front = self.take(front)?;
        Ok(std::mem::replace(self, front))
    }

    fn too_short(&self, needed: usize) -> QueueFault {
        QueueFault::TooShort { needed, available: self.bytes }
    }

    /// Takes `bytes` bytes for an access of that length.
    fn take_len(&mut self, bytes: usize) -> Result<Self, QueueFault> {
        match u32::try_from(bytes) {
            Ok(bytes) => self.take(bytes),
            Err(_) => Err(self.too_short(bytes)),
        }
    }

    /// Appends the stretch to `slices`, for a backend that reads or writes it with one vectored call.
    ///
    /// # Errors
    /// [`QueueFault::OutsideMemory`] when `memory` is not the memory that the chain was taken from.
    pub fn slices<'m>(
        &self,
        memory: &'m GuestMemory,
        slices: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<(), QueueFault> {
        for Buffer { address, bytes } in self.iter() {
            let fault = outside(address, bytes);
            // A buffer may reach over several memory regions.
            for slice in
                memory.get_slices(address, bytes as usize, Permissions::ReadWrite).map_err(|_| fault)?
            {
                slices.push(slice.map_err(|_| fault)?);
            }
        }
        Ok(())
    }

    /// Appends the stretch to `segments`, for block I/O.
    ///
    /// # Errors
    /// As [`Buffers::slices`].
    ///
    /// # Safety
    /// The caller keeps the `Arc` of `memory` alive until the request that gets the segments has been reaped or its queue
    /// dropped. A device's task does so by owning both, the queue of the disk declared before (dropped before) the memory.
    #[expect(
        unsafe_code,
        reason = "segments are pointers: whoever asks for them has to keep the memory mapped"
    )]
    pub unsafe fn segments(
        &self,
        memory: &GuestMemory,
        segments: &mut Vec<Segment>,
    ) -> Result<(), QueueFault> {
        for Buffer { address, bytes } in self.iter() {
            let fault = outside(address, bytes);
            for slice in
                memory.get_slices(address, bytes as usize, Permissions::ReadWrite).map_err(|_| fault)?
            {
                let slice = slice.map_err(|_| fault)?;
                let pointer = NonNull::new(slice.ptr_guard_mut().as_ptr()).ok_or(fault)?;
                // SAFETY: the memory is mapped as long as `memory` lives, which the caller sees to; guest memory is only
                // ever reached through volatile slices and raw pointers, never through a reference.
                segments.push(unsafe { Segment::new(pointer, slice.len()) });
            }
        }
        Ok(())
    }
}

impl Buffers<'_, Readable> {
    /// Fills `data` from the front of the stretch, which gets shorter by as much. Each byte is read once.
    ///
    /// # Errors
    /// [`QueueFault::TooShort`]; nothing was read.
    pub fn read(&mut self, memory: &GuestMemory, data: &mut [u8]) -> Result<(), QueueFault> {
        let mut data = data;
        for Buffer { address, bytes } in self.take_len(data.len())?.iter() {
            let (here, rest) = data.split_at_mut(bytes as usize);
            memory.read_slice(here, address).map_err(|_| outside(address, bytes))?;
            data = rest;
        }
        Ok(())
    }

    /// Reads a structure, as [`Buffers::read`]. Its fields are little-endian types.
    ///
    /// # Errors
    /// As [`Buffers::read`].
    pub fn read_object<T: FromBytes + IntoBytes>(&mut self, memory: &GuestMemory) -> Result<T, QueueFault> {
        let mut object = T::new_zeroed();
        self.read(memory, object.as_mut_bytes())?;
        Ok(object)
    }
}

impl Buffers<'_, Writable> {
    /// Writes `data` to the front of the stretch, which gets shorter by as much.
    ///
    /// # Errors
    /// [`QueueFault::TooShort`]; nothing was written.
    pub fn write(&mut self, memory: &GuestMemory, data: &[u8]) -> Result<(), QueueFault> {
        let mut data = data;
        for Buffer { address, bytes } in self.take_len(data.len())?.iter() {
            let (here, rest) = data.split_at(bytes as usize);
            memory.write_slice(here, address).map_err(|_| outside(address, bytes))?;
            data = rest;
        }
        Ok(())
    }
}

fn outside(address: GuestAddress, bytes: u32) -> QueueFault {
    QueueFault::OutsideMemory { what: "buffer", address, bytes: u64::from(bytes) }
}
