//! Who may use a directory or a volume.

use crate::error::XmlError;
use crate::fields::Fields;
use crate::tree::Element;

/// Mode and owners of a directory or a volume; what is not said is left to the host (formatstorage, "permissions").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The bits of chmod(2), at most 0o7777.
    pub mode: Option<u32>,
    /// User.
    pub owner: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// Security label.
    pub label: Option<String>,
}

impl Permissions {
    pub(super) fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        let Some(mut inner) = fields.child("permissions") else { return Ok(Self::default()) };
        let mode = match inner.text_of("mode")? {
            None => None,
            Some(text) => match u32::from_str_radix(&text, 8) {
                Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Some(mode),
                _ => return Err(inner.invalid(&text, "an octal mode of at most 7777")),
            },
        };
        let owner = id(&mut inner, "owner")?;
        let group = id(&mut inner, "group")?;
        let label = inner.text_of("label")?;
        inner.finish()?;
        Ok(Self { mode, owner, group, label })
    }

    /// `None` if nothing is said.
    pub(super) fn element(&self) -> Option<Element> {
        (*self != Self::default()).then(|| {
            Element::new("permissions")
                .optional_field("mode", self.mode.map(|mode| format!("{mode:04o}")))
                .optional_field("owner", self.owner)
                .optional_field("group", self.group)
                .optional_field("label", self.label.as_deref())
        })
    }
}

/// A user or a group; -1 means that it is not said.
fn id(fields: &mut Fields<'_>, name: &str) -> Result<Option<u32>, XmlError> {
    let Some(value) = fields.parsed_text_of::<i64>(name, "the number of a user or group")? else {
        return Ok(None);
    };
    match u32::try_from(value) {
        // (uid_t)-1 is no user.
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ if value == -1 || value == i64::from(u32::MAX) => Ok(None),
        _ => Err(fields.invalid(&value.to_string(), "the number of a user or group")),
    }
}
