//! The sentences by which libvirt's users know the faults of documents.
//!
//! Our own messages name the element and what it should have been. Where libvirt has a sentence for the same fault, people search for
//! that one and programs look at its error code, so a daemon says it first. Facts: what virsh prints on libvirtd 9.0.

use crate::error::{XmlError, XmlFault};

/// libvirt's error codes for faulty documents (virErrorNumber).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownAs {
    /// VIR_ERR_XML_ERROR.
    Xml,
    /// VIR_ERR_CONFIG_UNSUPPORTED.
    Unsupported,
    /// VIR_ERR_INVALID_ARG.
    Argument,
    /// VIR_ERR_OPERATION_INVALID.
    Operation,
    /// VIR_ERR_INTERNAL_ERROR.
    Internal,
    /// VIR_ERR_NO_NAME.
    NoName,
}

impl XmlError {
    /// The code that libvirt has for the fault, and its sentence where it has one.
    pub fn known_as(&self) -> (KnownAs, Option<String>) {
        let found = match &self.fault {
            XmlFault::Missing(_) => self.missing(),
            XmlFault::Invalid { value, expected } => self.invalid(value, expected.starts_with("a unit")),
            XmlFault::Malformed(_) | XmlFault::Root { .. } | XmlFault::Unsupported(_) => None,
        };
        match (found, &self.fault) {
            (Some((code, sentence)), _) => (code, Some(sentence)),
            (None, XmlFault::Unsupported(_)) => (KnownAs::Unsupported, None),
            (None, _) => (KnownAs::Xml, None),
        }
    }

    fn missing(&self) -> Option<(KnownAs, String)> {
        let XmlFault::Missing(what) = &self.fault else { return None };
        let (code, sentence) = match (self.path.as_str(), what.as_str()) {
            ("domain" | "network", "element \"name\"") => (KnownAs::NoName, "missing name information"),
            ("domain/memory", _) => {
                (KnownAs::Xml, "Memory size must be specified via <memory> or in the <numa> configuration")
            }
            ("domain/os/type", _) => (KnownAs::Xml, "an os <type> must be specified"),
            ("pool", "element \"name\"") => (KnownAs::Xml, "missing pool source name element"),
            ("pool", "element \"target/path\"") => (KnownAs::Xml, "missing storage pool target path"),
            ("volume", "element \"name\"") => (KnownAs::Xml, "missing volume name element"),
            _ => return None,
        };
        Some((code, sentence.to_owned()))
    }

    fn invalid(&self, value: &str, expects_unit: bool) -> Option<(KnownAs, String)> {
        let number = value.trim().parse::<u64>().is_ok();
        Some(match self.path.as_str() {
            "domain/uuid" => (KnownAs::Internal, "malformed uuid element".to_owned()),
            "domain/@type" => (KnownAs::Unsupported, format!("invalid domain type {value}")),
            "domain/name" if value.contains('/') => {
                (KnownAs::Xml, format!("name {value} cannot contain '/'"))
            }
            "domain/memory" | "domain/currentMemory" if expects_unit => {
                (KnownAs::Argument, format!("unknown suffix '{value}'"))
            }
            "domain/memory" | "domain/currentMemory" if !number => {
                let element = self.path.trim_start_matches("domain/");
                (KnownAs::Xml, format!("Invalid value '{value}' for element or attribute './{element}[1]'"))
            }
            "domain/vcpu" if !number => (KnownAs::Xml, "maximum vcpus count must be an integer".to_owned()),
            "domain/on_poweroff" | "domain/on_reboot" | "domain/on_crash" => {
                let event = self.path.trim_start_matches("domain/");
                (KnownAs::Unsupported, format!("unknown {event} action: {value}"))
            }
            "domain/devices/interface/mac/@address" => {
                (KnownAs::Xml, format!("unable to parse mac address '{value}'"))
            }
            "volume/target/format/@type" => {
                (KnownAs::Unsupported, format!("unknown volume format type {value}"))
            }
            "volume" if value.contains('/') => {
                (KnownAs::Operation, format!("volume name '{value}' cannot contain '/'"))
            }
            path => {
                let (element, attribute) = path.rsplit_once("/@")?;
                let element = element.rsplit('/').next().unwrap_or(element);
                let sentence =
                    format!("Invalid value for attribute '{attribute}' in element '{element}': '{value}'.");
                (KnownAs::Xml, sentence)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Domain;

    #[test]
    fn a_fault_that_libvirt_knows_has_its_code_and_sentence() {
        let known = |document: &str| Domain::parse(document).unwrap_err().known_as();
        let (code, sentence) = known("<domain type='nonsense'/>");
        assert_eq!((code, sentence.as_deref()), (KnownAs::Unsupported, Some("invalid domain type nonsense")));
        let (code, sentence) = known("<domain type='kvm'><name>x</name></domain>");
        assert_eq!((code, sentence.as_deref()), (KnownAs::Xml, Some("an os <type> must be specified")));
        let (code, sentence) = known(
            "<domain type='kvm'><os><type>hvm</type></os><devices><disk type='nonsense'/></devices></domain>",
        );
        let expected = "Invalid value for attribute 'type' in element 'disk': 'nonsense'.";
        assert_eq!((code, sentence.as_deref()), (KnownAs::Xml, Some(expected)));
        assert_eq!(known("no XML"), (KnownAs::Xml, None));
    }
}
