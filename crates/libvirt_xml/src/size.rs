//! Sizes with units (libvirt's documentation of `memory`: decimal and binary units, rounded up).

use crate::error::XmlError;
use crate::fields::Fields;
use crate::model::Model;
use crate::tree::Element;
use crate::value::{Value, invalid};

/// Bytes of a unit; units are compared without regard to case. `b`/`bytes`, decimal `KB` … `EB`, binary `k`/`KiB` … `E`/`EiB`.
fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, base) = match unit.as_str() {
        "b" | "byte" | "bytes" => return Some(1),
        unit if unit.len() == 1 => (unit, 1024_u64),
        unit if unit.len() == 3 && unit.ends_with("ib") => (&unit[..1], 1024),
        unit if unit.len() == 2 && unit.ends_with('b') => (&unit[..1], 1000),
        _ => return None,
    };
    let power = "kmgtpe".find(prefix)?;
    base.checked_pow(u32::try_from(power).ok()? + 1)
}

/// Bytes of a number with a unit.
pub(crate) fn scaled(number: &str, unit: &str) -> Result<u64, crate::XmlFault> {
    let scale = unit_bytes(unit).ok_or_else(|| invalid(unit, "a unit as bytes, KiB, MiB, GiB"))?;
    let number = u64::read(number)?;
    number.checked_mul(scale).ok_or_else(|| invalid(&format!("{number} {unit}"), "a size of up to 64 bits"))
}

fn take(fields: &mut Fields<'_>, default: &str) -> Result<u64, XmlError> {
    let unit = fields.attribute("unit").unwrap_or(default);
    scaled(&fields.text(), unit).map_err(|fault| fields.fault(fault))
}

fn put(element: &mut Element, unit: &str, number: u64) {
    element.attributes.push(("unit".to_owned(), unit.to_owned()));
    element.push_text(number.to_string());
}

/// A size in KiB, which is the unit when none is given; other units are rounded up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kib(pub u64);

impl Model for Kib {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        take(fields, "KiB").map(|bytes| Self(bytes.div_ceil(1024)))
    }

    fn put(&self, element: &mut Element) {
        put(element, "KiB", self.0);
    }
}

/// A size in bytes, which is the unit when none is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Model for Bytes {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        take(fields, "bytes").map(Self)
    }

    fn put(&self, element: &mut Element) {
        put(element, "bytes", self.0);
    }
}

/// Declares a size in KiB that stands in an attribute, with its unit in the attribute `unit`.
macro_rules! attribute_sizes {
    ($($(#[$meta:meta])* pub struct $name:ident in $attribute:literal;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl Model for $name {
            fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
                let number = fields.required_attribute($attribute)?;
                let unit = fields.attribute("unit").unwrap_or("KiB");
                let bytes = scaled(number, unit).map_err(|fault| fields.fault(fault))?;
                Ok(Self(bytes.div_ceil(1024)))
            }

            fn put(&self, element: &mut Element) {
                element.attributes.push(($attribute.to_owned(), self.0.to_string()));
                element.attributes.push(("unit".to_owned(), "KiB".to_owned()));
            }
        }

        #[cfg(test)]
        impl crate::draw::Draw for $name {
            fn draw(bytes: &mut crate::draw::Bytes) -> Self {
                Self(u64::draw(bytes) >> 10)
            }
        }
    )*};
}

attribute_sizes! {
    /// The memory of a NUMA cell, KiB.
    pub struct CellMemory in "memory";
    /// The size of a huge page, KiB.
    pub struct PageSize in "size";
}
