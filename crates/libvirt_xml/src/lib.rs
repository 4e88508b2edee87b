//! libvirt's XML documents: read into typed models and written back as libvirt writes them.
//!
//! A document is parsed once into a bounded tree ([`Element`]); a model takes from the tree what it knows, field by field
//! ([`Fields`]), and whatever nobody took is there to be refused by name: nothing is dropped silently. Models are plain data and
//! write themselves back into a tree, which prints in libvirt's own layout (two blanks a level, single quotes).
//!
//! Every document comes from outside and is hostile: size, depth and number of elements are bounded, document types and
//! entities other than XML's own five are refused, and errors name the element by its path.
//!
//! Sources: libvirt's format documentation (formatdomain, formatnetwork, formatstorage, formatcaps), XML 1.0.

pub mod capabilities;
pub mod domain;
pub mod domain_capabilities;
pub mod network;
pub mod size;

#[cfg(test)]
mod draw;
mod error;
mod fields;
mod known;
mod model;
mod parse;
pub mod storage;
mod tree;
mod value;
mod write;

pub use self::error::{XmlError, XmlFault};
pub use self::fields::Fields;
pub use self::known::KnownAs;
pub use self::model::Model;
pub use self::parse::{MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_ELEMENTS, parse};
pub use self::tree::{Element, Kept, Node};
pub use self::value::{Hex, MAX_SET_MEMBER, MacAddress, NumberSet, OnOff, Uuid, Value, YesNo};

#[cfg(test)]
mod tests;
