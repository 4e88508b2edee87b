//! Sizes with units.

use crate::error::XmlError;
use crate::fields::Fields;
use crate::tree::Element;

/// Takes the size in the first child of that name, in bytes. The attribute `unit` scales it (formatstorage, "capacity"):
/// bytes, B, KB (1000 bytes), K or KiB (1024 bytes), and so on up to E.
pub(super) fn take(fields: &mut Fields<'_>, name: &str) -> Result<Option<u64>, XmlError> {
    let Some(mut child) = fields.child(name) else { return Ok(None) };
    let unit = child.attribute("unit").unwrap_or("bytes");
    let Some(scale) = scale(unit) else {
        return Err(child.invalid_attribute("unit", unit, "a unit of sizes, as in \"bytes\" or \"GiB\""));
    };
    let text = child.text();
    let bytes = text
        .parse::<u64>()
        .ok()
        .and_then(|value| value.checked_mul(scale))
        // What the host's files can have, and what libvirt's own interfaces can tell.
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| child.invalid(&text, "a size of less than 8 EiB"))?;
    child.finish()?;
    Ok(Some(bytes))
}

/// Bytes of a unit.
fn scale(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "" | "b" | "byte" | "bytes") {
        return Some(1);
    }
    let mut characters = unit.chars();
    let power = "kmgtpe".find(characters.next()?)?;
    let base: u64 = match characters.as_str() {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    base.checked_pow(u32::try_from(power).ok()? + 1)
}

/// `<name unit='bytes'>…</name>`.
pub(super) fn element(name: &str, bytes: u64) -> Element {
    Element::new(name).with("unit", "bytes").text(bytes)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn units_are_those_of_libvirt() {
        let known = [
            ("bytes", 1),
            ("B", 1),
            ("k", 1 << 10),
            ("KiB", 1 << 10),
            ("KB", 1000),
            ("G", 1 << 30),
            ("GB", 1_000_000_000),
            ("EiB", 1 << 60),
            ("EB", 1_000_000_000_000_000_000),
        ];
        for (unit, bytes) in known {
            assert_eq!(scale(unit), Some(bytes), "{unit}");
        }
        for unit in ["Z", "KiBs", "i", "kilo", "\u{212a}"] {
            assert_eq!(scale(unit), None, "{unit}");
        }
    }
}
