//! Who a guest is, written from outside: the cloud-init seed of a new machine, and the renewed identity of a copied Linux disk.
//!
//! - [`cloud_init`] makes the documents of a NoCloud seed, and [`iso9660`] the volume that they stand on.
//! - [`disk_layout`] finds what is on a disk: partition tables and the kinds of the file systems in them.
//! - [`renewal`] gives the root file system on a disk a new identity: machine-id, ssh host keys, host name.
//!
//! Disks belong to guests and are hostile. The host's kernel never mounts them; tables are read here with bounded memory and time, and file
//! systems only by e2fsprogs in user space, in processes without privileges that end in bounded time and see one file: a copy of the file
//! system. Operators' words (names, keys, own documents) are checked, because they go into documents that programs read.
//!
//! There are no threads; everything waits on the caller's.

pub mod cloud_init;
pub mod disk_layout;
pub mod iso9660;
pub mod renewal;
