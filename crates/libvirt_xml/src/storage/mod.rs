//! libvirt's storage documents: pools, volumes, sources of pools, and what a host can do with them.
//!
//! Only what `host_storage` can honour is a value here: pools of the kinds directory, file system, network file system and
//! LVM. The other kinds that libvirt knows are refused by their names. What libvirt writes for information (sizes of pools,
//! keys, paths and times of volumes) is read and written back.
//!
//! Sources: libvirt's "Storage pool and volume XML format" (formatstorage), "Storage pool capabilities XML format"
//! (formatstoragecaps).

mod capabilities;
mod permissions;
mod pool;
mod size;
mod sources;
mod volume;

pub use self::capabilities::PoolCapabilities;
pub use self::permissions::Permissions;
pub use self::pool::{
    FileSystem, NetworkFileSystem, NetworkSource, PoolDefinition, PoolKind, PoolSizes, PoolSource, PoolTarget,
};
pub use self::sources::{PoolSources, SourceQuery};
pub use self::volume::{
    BackingStore, Compatibility, Extent, Preallocated, Timestamp, Timestamps, VolumeDefinition,
    VolumeFeatures, VolumeFormat, VolumeKind, VolumeTarget, check_volume_name,
};

#[cfg(test)]
mod tests;

/// An enumeration of names in a document.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$variant_doc])* $variant),+
        }

        impl $type {
            /// All of them, in libvirt's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in documents.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// The value of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
use names;
