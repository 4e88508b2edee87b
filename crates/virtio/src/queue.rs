//! A split virtqueue (virtio 1.2, section 2.7) as the device sees it.

/// A virtqueue.
#[derive(Debug)]
pub struct Queue {}
