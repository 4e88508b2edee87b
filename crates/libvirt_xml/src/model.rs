//! How a model is declared: one table says where each field stands in the XML, and reading, writing (in the order of the table) and
//! the drawing of arbitrary models for tests all follow from it. So no field can be read and forgotten when writing.

use crate::error::XmlError;
use crate::fields::Fields;
use crate::tree::Element;

/// A typed element, or the fields that several elements share.
pub trait Model: Sized {
    /// Takes what it knows of an element.
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError>;

    /// Adds its attributes and children to an element.
    fn put(&self, element: &mut Element);

    /// Reads a whole element; what the model does not know is refused by name.
    fn read(mut fields: Fields<'_>) -> Result<Self, XmlError> {
        let model = Self::take(&mut fields)?;
        fields.finish()?;
        Ok(model)
    }

    /// Writes an element of that name.
    fn write(&self, name: &str) -> Element {
        let mut element = Element::new(name);
        self.put(&mut element);
        element
    }
}

/// Declares models. A field says where it stands, as in `cache: attribute("cache") => Option<CacheMode>,`:
///
/// | kind | XML | Rust type |
/// |---|---|---|
/// | `attribute("a")` | an attribute that may be absent | `Option<Value>` |
/// | `required("a")` | an attribute that must be there | `Value` |
/// | `defaulted("a")` | absent means the default; always written | `Value + Default` |
/// | `text` | the element's own text | `Value` |
/// | `own_text` | the same, may be absent | `Option<Value>` |
/// | `child("c")` | a child element | `Option<Model>` |
/// | `boxed("c")` | the same, of a recursive model | `Option<Box<Model>>` |
/// | `always("c")` | a child that is always written | `Model + Default` |
/// | `children("c")` | every child of the name | `Vec<Model>` |
/// | `list("l", "c")` | children wrapped in one element, not written when there are none | `Vec<Model>` |
/// | `flag("c")` | `<c/>` | `bool` |
/// | `field("c")` | `<c>value</c>` | `Option<Value>` |
/// | `fields("c")` | every `<c>value</c>` | `Vec<Value>` |
/// | `kept("c", …)` | subtrees kept as they are | `Kept` |
/// | `part` | fields of another model, in the same element | `Model` |
macro_rules! model {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $kind:ident $(($($argument:literal),*))? => $type:ty,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[doc = concat!("(XML: ", stringify!($kind $(($($argument),*))?), ")")]
                pub $field: $type,
            )*
        }

        impl $crate::model::Model for $name {
            fn take(fields: &mut $crate::Fields<'_>) -> Result<Self, $crate::XmlError> {
                Ok(Self { $($field: $crate::model::take!(fields, $kind $($($argument),*)?),)* })
            }

            fn put(&self, element: &mut $crate::Element) {
                $($crate::model::put!(element, self.$field, $kind $($($argument),*)?);)*
            }
        }

        #[cfg(test)]
        impl $crate::draw::Draw for $name {
            fn draw(bytes: &mut $crate::draw::Bytes) -> Self {
                bytes.nested(|bytes| Self { $($field: $crate::draw::Draw::draw(bytes),)* })
            }
        }
    )*};
}

macro_rules! take {
    ($fields:ident, attribute $name:literal) => {
        $fields.value($name)?
    };
    ($fields:ident, required $name:literal) => {
        $fields.required_value($name)?
    };
    ($fields:ident, defaulted $name:literal) => {
        $fields.value($name)?.unwrap_or_default()
    };
    ($fields:ident, text) => {
        $fields.required_own_value()?
    };
    ($fields:ident, own_text) => {
        $fields.own_value()?
    };
    ($fields:ident, child $name:literal) => {
        $fields.child($name).map($crate::model::Model::read).transpose()?
    };
    ($fields:ident, boxed $name:literal) => {
        $fields.child($name).map($crate::model::Model::read).transpose()?.map(Box::new)
    };
    ($fields:ident, always $name:literal) => {
        $fields.child($name).map($crate::model::Model::read).transpose()?.unwrap_or_default()
    };
    ($fields:ident, children $name:literal) => {
        $fields.children($name).into_iter().map($crate::model::Model::read).collect::<Result<_, _>>()?
    };
    ($fields:ident, list $list:literal, $name:literal) => {
        $fields.list($list, $name)?
    };
    ($fields:ident, flag $name:literal) => {
        $fields.child($name).map($crate::Fields::finish).transpose()?.is_some()
    };
    ($fields:ident, field $name:literal) => {
        $fields.value_of($name)?
    };
    ($fields:ident, fields $name:literal) => {
        $fields.values_of($name)?
    };
    ($fields:ident, kept $($name:literal),+) => {
        $fields.kept(&[$($name),+])
    };
    ($fields:ident, part) => {
        $crate::model::Model::take($fields)?
    };
}

macro_rules! put {
    ($element:ident, $value:expr, attribute $name:literal) => {
        if let Some(value) = &$value {
            $element.attributes.push(($name.to_owned(), $crate::value::Value::print(value)));
        }
    };
    ($element:ident, $value:expr, required $name:literal) => {
        $element.attributes.push(($name.to_owned(), $crate::value::Value::print(&$value)));
    };
    ($element:ident, $value:expr, defaulted $name:literal) => {
        $crate::model::put!($element, $value, required $name);
    };
    ($element:ident, $value:expr, text) => {
        $element.push_text($crate::value::Value::print(&$value));
    };
    ($element:ident, $value:expr, own_text) => {
        if let Some(value) = &$value {
            $element.push_text($crate::value::Value::print(value));
        }
    };
    ($element:ident, $value:expr, child $name:literal) => {
        if let Some(child) = &$value {
            $element.push($crate::model::Model::write(child, $name));
        }
    };
    ($element:ident, $value:expr, boxed $name:literal) => {
        if let Some(child) = &$value {
            $element.push($crate::model::Model::write(child.as_ref(), $name));
        }
    };
    ($element:ident, $value:expr, always $name:literal) => {
        $element.push($crate::model::Model::write(&$value, $name));
    };
    ($element:ident, $value:expr, children $name:literal) => {
        for child in &$value {
            $element.push($crate::model::Model::write(child, $name));
        }
    };
    ($element:ident, $value:expr, list $list:literal, $name:literal) => {
        if !$value.is_empty() {
            let children = $value.iter().map(|child| $crate::model::Model::write(child, $name));
            $element.push($crate::Element::new($list).children_from(children));
        }
    };
    ($element:ident, $value:expr, flag $name:literal) => {
        if $value {
            $element.push($crate::Element::new($name));
        }
    };
    ($element:ident, $value:expr, field $name:literal) => {
        if let Some(value) = &$value {
            $element.push($crate::Element::new($name).text($crate::value::Value::print(value)));
        }
    };
    ($element:ident, $value:expr, fields $name:literal) => {
        for value in &$value {
            $element.push($crate::Element::new($name).text($crate::value::Value::print(value)));
        }
    };
    ($element:ident, $value:expr, kept $($name:literal),+) => {
        for child in &$value.0 {
            $element.push(child.clone());
        }
    };
    ($element:ident, $value:expr, part) => {
        $crate::model::Model::put(&$value, $element);
    };
}

pub(crate) use {model, put, take};
