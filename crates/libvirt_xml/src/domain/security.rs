//! Security labels and launch security.
//!
//! Refused: launch security other than SEV's; keys and certificates are kept as text.

use crate::model::model;
use crate::value::{Hex, YesNo, words};

words! {
    /// Where a label comes from.
    pub enum LabelType { Dynamic = "dynamic", Static = "static", None = "none", }

    /// Kinds of confidential machines.
    pub enum LaunchSecurityType { Sev = "sev", }
    refused "sev-snp", "s390-pv", "tdx";
}

model! {
    /// A label of one file or socket.
    pub struct SourceLabel {
        /// Security model, as `selinux`, `apparmor`, `dac`.
        model: attribute("model") => Option<String>,
        /// Whether it is labelled at all.
        relabel: attribute("relabel") => Option<YesNo>,
        /// Whether labelling was skipped; running domains only.
        label_skip: attribute("labelskip") => Option<YesNo>,
        /// The label.
        label: field("label") => Option<String>,
    }

    /// A label of a domain.
    pub struct SecurityLabel {
        /// Where it comes from.
        kind: attribute("type") => Option<LabelType>,
        /// Security model, as `selinux`, `apparmor`, `dac`.
        model: attribute("model") => Option<String>,
        /// Whether images are labelled.
        relabel: attribute("relabel") => Option<YesNo>,
        /// The process's label.
        label: field("label") => Option<String>,
        /// The images' label.
        image_label: field("imagelabel") => Option<String>,
        /// What dynamic labels are made from.
        base_label: field("baselabel") => Option<String>,
    }

    /// A confidential machine.
    pub struct LaunchSecurity {
        /// Kind.
        kind: required("type") => LaunchSecurityType,
        /// Whether kernel, initrd and command line are measured.
        kernel_hashes: attribute("kernelHashes") => Option<YesNo>,
        /// Place of the encryption bit.
        cbitpos: field("cbitpos") => Option<u32>,
        /// Physical address bits that are lost.
        reduced_phys_bits: field("reducedPhysBits") => Option<u32>,
        /// Policy bits.
        policy: field("policy") => Option<Hex<4>>,
        /// Owner's certificate, base64.
        dh_cert: field("dhCert") => Option<String>,
        /// Session, base64.
        session: field("session") => Option<String>,
    }
}
