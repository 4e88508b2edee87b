//! Objects of the API with fields that are known but not honoured.

use serde_json::Value;

/// Declares an object of the API: a struct with the fields that are honoured, whose `Deserialize` also knows the
/// `unsupported` ones by name. Each of those is accepted with a value that changes nothing: null and whatever is in its
/// list, or, without a list, any empty value (see [`is_empty`]).
macro_rules! wire_object {
    (
        $(#[$outer:meta])*
        pub struct $Name:ident {
            $( $(#[$inner:meta])* pub $field:ident: $Type:ty, )*
        }
        unsupported {
            $( $refused:ident $(= [$($neutral:tt),+])?, )*
        }
    ) => {
        $(#[$outer])*
        #[derive(serde::Serialize)]
        pub struct $Name {
            $( $(#[$inner])* pub $field: $Type, )*
        }

        impl<'de> serde::Deserialize<'de> for $Name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Whole {
                    $( $(#[$inner])* $field: $Type, )*
                    $( #[serde(default)] $refused: Option<serde_json::Value>, )*
                }
                let whole = Whole::deserialize(deserializer)?;
                $(
                    if let Some(value) = whole.$refused
                        && !$crate::wire::unsupported::changes_nothing(
                            &value, &[$($(serde_json::json!($neutral)),+)?])
                    {
                        return Err(serde::de::Error::custom(concat!(
                            "field `", stringify!($refused), "` is not supported by this VMM: leave it out",
                        )));
                    }
                )*
                Ok(Self { $( $field: whole.$field, )* })
            }
        }

        #[cfg(test)]
        impl $crate::wire::unsupported::Fields for $Name {
            const UNSUPPORTED: &'static [&'static str] = &[$(stringify!($refused)),*];
        }
    };
}
pub(crate) use wire_object;

/// The fields of an object that are not honoured, for tests that go through all of them.
#[cfg(test)]
pub(crate) trait Fields {
    /// Those that are only known.
    const UNSUPPORTED: &'static [&'static str];
}

/// Whether `value`, given for a field that is not honoured, asks for nothing: it is null or one of `neutral`, or, where
/// that is empty, an empty value.
pub(crate) fn changes_nothing(value: &Value, neutral: &[Value]) -> bool {
    match value {
        Value::Null => true,
        value if neutral.is_empty() => is_empty(value),
        value => neutral.contains(&without_nulls(value)),
    }
}

/// Null, false, 0, "", [] and an object all of whose values are such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// The value without the fields of an object that are null, which mean the same as absent ones.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect(),
        ),
        other => other.clone(),
    }
}
