//! The description of a virtual machine (OVF), as far as it is about disks. No entities but XML's own are known, nothing
//! outside the text is ever opened, nesting is not followed: time and memory are linear in the text's length.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

use crate::formats::error::ImageError;

/// Most files and disks that a description may name.
const MOST_ENTRIES: usize = 1024;

/// A disk and the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskReference {
    pub(super) id: String,
    pub(super) href: String,
    pub(super) format: String,
}

/// A file that disks refer to.
struct File {
    href: String,
    /// Why it can't be used as it is.
    refusal: Option<&'static str>,
}

fn damaged(error: impl std::fmt::Display) -> ImageError {
    ImageError::Unsupported(format!("the OVF description is damaged: {error}").replace(['\n', '\r'], " "))
}

/// Attributes by their names without namespaces.
fn attributes(element: &BytesStart<'_>) -> Result<HashMap<String, String>, ImageError> {
    let mut attributes = HashMap::new();
    for attribute in element.attributes() {
        let attribute = attribute.map_err(damaged)?;
        let name = attribute.key.local_name().as_ref().to_owned();
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(damaged)?.into_owned();
        attributes.insert(name, value);
    }
    Ok(attributes)
}

/// The disks that have a file, in their order.
pub(super) fn disks(text: &[u8]) -> Result<Vec<DiskReference>, ImageError> {
    let mut reader = Reader::from_str(std::str::from_utf8(text).map_err(damaged)?);
    let mut files: HashMap<String, File> = HashMap::new();
    let mut disks: Vec<HashMap<String, String>> = Vec::new();
    loop {
        let element = match reader.read_event().map_err(damaged)? {
            Event::Eof => break,
            Event::Start(element) | Event::Empty(element) => element,
            _ => continue,
        };
        match element.local_name().as_ref() {
            "File" => {
                let mut file = attributes(&element)?;
                let refusal =
                    if file.get("compression").is_some_and(|kind| !kind.is_empty() && kind != "identity") {
                        Some("is compressed: unpack it first")
                    } else if file.contains_key("chunkSize") {
                        Some("is split into chunks: join them first")
                    } else {
                        None
                    };
                if let (Some(id), Some(href)) = (file.remove("id"), file.remove("href")) {
                    files.insert(id, File { href, refusal });
                }
            }
            "Disk" => disks.push(attributes(&element)?),
            _ => {}
        }
        if files.len() + disks.len() > MOST_ENTRIES {
            let rule = format!("at most {MOST_ENTRIES} are supported");
            return Err(ImageError::field("the number of files and disks", MOST_ENTRIES as u64 + 1, rule));
        }
    }
    disks.into_iter().filter_map(|disk| reference(disk, &files).transpose()).collect()
}

/// `None` for a disk that is to be made empty.
fn reference(
    mut disk: HashMap<String, String>,
    files: &HashMap<String, File>,
) -> Result<Option<DiskReference>, ImageError> {
    let Some(file) = disk.remove("fileRef") else { return Ok(None) };
    if let Some(parent) = disk.get("parentRef") {
        return Err(ImageError::text("parentRef", parent, "disks on top of a parent are not supported"));
    }
    let file =
        files.get(&file).ok_or_else(|| ImageError::text("fileRef", &file, "is not among the references"))?;
    if let Some(refusal) = file.refusal {
        return Err(ImageError::text("the file of a disk", &file.href, refusal));
    }
    Ok(Some(DiskReference {
        id: disk.remove("diskId").unwrap_or_default(),
        href: file.href.clone(),
        format: disk.remove("format").unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"<?xml version="1.0"?><!-- made by nobody -->
        <Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
        <References><File ovf:id="file1" ovf:href="a&amp;b.vmdk" ovf:size="1"/>
        <File ovf:id="file2" ovf:href="c.vmdk" ovf:compression="gzip"></File></References>
        <DiskSection><Info>disks</Info>
        <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://x/vmdk.html#streamOptimized"/>
        <Disk ovf:diskId="empty" ovf:capacity="8"/></DiskSection></Envelope>"#;

    #[test]
    fn disks_are_found_with_their_files() {
        let format = "http://x/vmdk.html#streamOptimized".to_owned();
        let expected = [DiskReference { id: "vmdisk1".into(), href: "a&b.vmdk".into(), format }];
        assert_eq!(disks(TEXT.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_in_place_is_refused() {
        let refused =
            |from: &str, to: &str| disks(TEXT.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(refused("fileRef=\"file1\"", "fileRef=\"file2\"").contains("c.vmdk\": is compressed"));
        assert!(refused("fileRef=\"file1\"", "fileRef=\"file3\"").contains("file3"));
        assert!(refused("ovf:fileRef", "ovf:parentRef=\"p\" ovf:fileRef").contains("parentRef"));
        assert!(refused("</Envelope>", "</Elephant>").contains("damaged"));
        assert!(refused("a&amp;b", "a&secret;b").contains("damaged"), "no entities of its own");
        assert!(refused("<DiskSection>", &"<Disk x=\"1\"/>".repeat(2000)).contains("1024"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(cut in 0..TEXT.len(), at in 0..TEXT.len(), with in any::<u8>()) {
            let mut text = TEXT.as_bytes().to_vec();
            text[at] = with;
            let _ = disks(&text);
            let _ = disks(&text[..cut]);
        }
    }
}
