//! The emulated host: an AMD-V machine with real KVM on any Linux, and the guests to run in it
