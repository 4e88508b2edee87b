//! Registers of the common configuration (virtio 1.2, 4.1.4.3): offset and width.

/// A register's offset and width in bytes.
pub type Register = (u64, usize);
/// `device_feature_select`.
pub const DEVICE_FEATURE_SELECT: Register = (0, 4);
/// `device_feature`.
pub const DEVICE_FEATURE: Register = (4, 4);
/// `driver_feature_select`.
pub const DRIVER_FEATURE_SELECT: Register = (8, 4);
/// `driver_feature`.
pub const DRIVER_FEATURE: Register = (12, 4);
/// `config_msix_vector`.
pub const CONFIG_VECTOR: Register = (16, 2);
/// `num_queues`.
pub const QUEUE_COUNT: Register = (18, 2);
/// `device_status`.
pub const STATUS: Register = (20, 1);
/// `config_generation`.
pub const CONFIG_GENERATION: Register = (21, 1);
/// `queue_select`.
pub const QUEUE_SELECT: Register = (22, 2);
/// `queue_size`.
pub const QUEUE_SIZE: Register = (24, 2);
/// `queue_msix_vector`.
pub const QUEUE_VECTOR: Register = (26, 2);
/// `queue_enable`.
pub const QUEUE_ENABLE: Register = (28, 2);
/// `queue_notify_off`.
pub const QUEUE_NOTIFY_OFFSET: Register = (30, 2);
/// `queue_desc`.
pub const QUEUE_DESCRIPTORS: Register = (32, 8);
/// `queue_driver`.
pub const QUEUE_AVAILABLE: Register = (40, 8);
/// `queue_device`.
pub const QUEUE_USED: Register = (48, 8);
