//! XDR, the external data representation of RFC 4506, as far as libvirt's protocol uses it.
//!
//! Everything that is decoded is hostile. A length is checked against its limit and against the bytes that are there before
//! anything is allocated for it, so that decoding never takes more than a small multiple of the packet's own size. Types are
//! not recursive, so that nesting is bounded by the types themselves.
//!
//! Stricter than the C library where nobody gains from leniency: a boolean is 0 or 1, a small integer fits its type, strings
//! are UTF-8 without NUL, padding is zero, and nothing follows the last field.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Longest string, in bytes (REMOTE_STRING_MAX of remote_protocol.x).
pub const STRING_MAX: usize = 4_194_304;

/// Why a value can't be read from or written to its wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The packet ends inside a value.
    #[error("the data ends early")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// A string, list or block is longer than the protocol allows.
    #[error("{length} elements where the protocol allows {limit}")]
    TooLong {
        /// Elements or bytes.
        length: usize,
        /// The protocol's limit.
        limit: usize,
    },
    /// A value that its type doesn't have.
    #[error("{value:#x} is not a valid {what}")]
    Invalid {
        /// The type.
        what: &'static str,
        /// What was found.
        value: u64,
    },
    /// A string that is not UTF-8, or has a NUL in it.
    #[error("a string is not UTF-8 without NUL")]
    Text,
}

/// Bytes that are being decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes the next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(XdrError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes `length` bytes and the padding behind them.
    fn padded(&mut self, length: usize) -> Result<&'a [u8], XdrError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(XdrError::Truncated)?;
        let (padding, rest) = rest.split_at_checked(padding(length)).ok_or(XdrError::Truncated)?;
        if let Some(byte) = padding.iter().find(|byte| **byte != 0) {
            return Err(XdrError::Invalid { what: "padding", value: u64::from(*byte) });
        }
        self.rest = rest;
        Ok(bytes)
    }

    /// Takes a length word that is at most `limit`.
    fn length(&mut self, limit: usize) -> Result<usize, XdrError> {
        let length = u32::decode(self)? as usize;
        if length > limit { Err(XdrError::TooLong { length, limit }) } else { Ok(length) }
    }

    fn text(&mut self, limit: usize) -> Result<&'a str, XdrError> {
        let length = self.length(limit)?;
        let text = std::str::from_utf8(self.padded(length)?).map_err(|_| XdrError::Text)?;
        if text.contains('\0') { Err(XdrError::Text) } else { Ok(text) }
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// A length as a word of the wire, at most `limit`.
fn length_word(length: usize, limit: usize) -> Result<u32, XdrError> {
    if length > limit {
        return Err(XdrError::TooLong { length, limit });
    }
    u32::try_from(length).map_err(|_| XdrError::TooLong { length, limit })
}

fn put_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0; 3][..padding(bytes.len())]);
}

/// A value with an XDR form.
pub trait Xdr: Sized {
    /// Fewest bytes that a value takes: what bounds the length of a list by the bytes that are there.
    const MIN_BYTES: usize;

    /// Appends the value's wire form. Fails only on what is longer than the protocol allows.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError>;

    /// Reads a value.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError>;

    /// Reads a value that takes all of `bytes`.
    fn from_bytes(bytes: &[u8]) -> Result<Self, XdrError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        match reader.remaining() {
            0 => Ok(value),
            trailing => Err(XdrError::Trailing(trailing)),
        }
    }
}

/// A value whose length has a limit that its field knows.
pub trait Bounded: Sized {
    /// Appends the wire form, at most `limit` elements.
    fn encode_bounded(&self, limit: usize, out: &mut Vec<u8>) -> Result<(), XdrError>;
    /// Reads at most `limit` elements.
    fn decode_bounded(limit: usize, reader: &mut Reader<'_>) -> Result<Self, XdrError>;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Xdr for $type {
            const MIN_BYTES: usize = size_of::<$type>();
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
                out.extend_from_slice(&self.to_be_bytes());
                Ok(())
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
                Ok(<$type>::from_be_bytes(reader.array()?))
            }
        }
    )*};
}
number!(i32, u32, i64, u64, f64);

/// Integers shorter than a word travel as one.
macro_rules! short_number {
    ($($type:ty as $word:ty),*) => {$(
        impl Xdr for $type {
            const MIN_BYTES: usize = 4;
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
                <$word>::from(*self).encode(out)
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
                let word = u32::from_be_bytes(reader.array()?);
                Self::try_from(word.cast_signed())
                    .map_err(|_| XdrError::Invalid { what: stringify!($type), value: u64::from(word) })
            }
        }
    )*};
}
short_number!(i8 as i32, u8 as u32, i16 as i32, u16 as u32);

impl Xdr for () {
    const MIN_BYTES: usize = 0;
    fn encode(&self, _: &mut Vec<u8>) -> Result<(), XdrError> {
        Ok(())
    }
    fn decode(_: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(())
    }
}

impl Xdr for bool {
    const MIN_BYTES: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        u32::from(*self).encode(out)
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        match u32::decode(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Invalid { what: "boolean", value: u64::from(value) }),
        }
    }
}

impl Xdr for String {
    const MIN_BYTES: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        length_word(self.len(), STRING_MAX)?.encode(out)?;
        put_padded(out, self.as_bytes());
        Ok(())
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        reader.text(STRING_MAX).map(str::to_owned)
    }
}

impl<T: Xdr> Xdr for Option<T> {
    const MIN_BYTES: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        self.is_some().encode(out)?;
        self.as_ref().map_or(Ok(()), |value| value.encode(out))
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        if bool::decode(reader)? { T::decode(reader).map(Some) } else { Ok(None) }
    }
}

impl<T: Xdr> Bounded for Vec<T> {
    fn encode_bounded(&self, limit: usize, out: &mut Vec<u8>) -> Result<(), XdrError> {
        length_word(self.len(), limit)?.encode(out)?;
        self.iter().try_for_each(|value| value.encode(out))
    }
    fn decode_bounded(limit: usize, reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let length = reader.length(limit)?;
        // A list that can't fit what is left is refused before a byte is allocated for it.
        if length.checked_mul(T::MIN_BYTES).is_none_or(|bytes| bytes > reader.remaining()) {
            return Err(XdrError::Truncated);
        }
        // Values are larger in memory than on the wire: grown as they come.
        let mut list = Vec::with_capacity(length.min(64));
        for _ in 0..length {
            list.push(T::decode(reader)?);
        }
        Ok(list)
    }
}

/// Bytes without meaning to the protocol (`opaque<>`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opaque(pub Vec<u8>);

impl Deref for Opaque {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Opaque {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Bounded for Opaque {
    fn encode_bounded(&self, limit: usize, out: &mut Vec<u8>) -> Result<(), XdrError> {
        length_word(self.0.len(), limit)?.encode(out)?;
        put_padded(out, &self.0);
        Ok(())
    }
    fn decode_bounded(limit: usize, reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let length = reader.length(limit)?;
        Ok(Self(reader.padded(length)?.to_vec()))
    }
}

/// A UUID: 16 bytes in the order in which they are printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Xdr for Uuid {
    const MIN_BYTES: usize = 16;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        reader.array().map(Self)
    }
}

/// Declares structures once: each gets its type, its wire form and, in tests, random values. A field of a type with a
/// limit (`Vec`, [`Opaque`]) says it in brackets.
macro_rules! structures {
    ($($(#[$meta:meta])* $visible:vis struct $name:ident {
        $($field:ident : $type:ty $([$limit:expr])?),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $visible struct $name { $($visible $field: $type,)* }

        impl $crate::xdr::Xdr for $name {
            const MIN_BYTES: usize = 0 $(+ $crate::xdr::structures!(@least $type $([$limit])?))*;
            #[expect(clippy::allow_attributes, reason = "structures without fields use neither")]
            #[allow(unused_variables, reason = "structures without fields have nothing to write")]
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), $crate::xdr::XdrError> {
                $($crate::xdr::structures!(@encode &self.$field, out $(, $limit)?);)*
                Ok(())
            }
            #[expect(clippy::allow_attributes, reason = "structures without fields use neither")]
            #[allow(unused_variables, reason = "structures without fields have nothing to read")]
            fn decode(reader: &mut $crate::xdr::Reader<'_>) -> Result<Self, $crate::xdr::XdrError> {
                $(let $field = $crate::xdr::structures!(@decode $type, reader $(, $limit)?);)*
                Ok(Self { $($field),* })
            }
        }

        #[cfg(test)]
        impl $crate::samples::Sample for $name {
            fn sample(source: &mut $crate::samples::Source<'_>) -> Self {
                let _ = &source;
                Self { $($field: $crate::samples::Sample::sample(source)),* }
            }
        }
    )*};
    (@least $type:ty) => { <$type as $crate::xdr::Xdr>::MIN_BYTES };
    (@least $type:ty [$limit:expr]) => { 4 };
    (@encode $value:expr, $out:expr) => { $crate::xdr::Xdr::encode($value, $out)? };
    (@encode $value:expr, $out:expr, $limit:expr) => {
        $crate::xdr::Bounded::encode_bounded($value, $limit, $out)?
    };
    (@decode $type:ty, $reader:expr) => { <$type as $crate::xdr::Xdr>::decode($reader)? };
    (@decode $type:ty, $reader:expr, $limit:expr) => {
        <$type as $crate::xdr::Bounded>::decode_bounded($limit, $reader)?
    };
}
pub(crate) use structures;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_padded_to_words() {
        let mut out = Vec::new();
        "t1".to_owned().encode(&mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 2, b't', b'1', 0, 0]);
        assert_eq!(String::from_bytes(&out), Ok("t1".into()));
    }

    #[test]
    fn a_count_that_the_packet_cannot_hold_allocates_nothing() {
        let count = [0, 0, 0x40, 0];
        let mut reader = Reader::new(&count);
        assert_eq!(Vec::<u64>::decode_bounded(1 << 20, &mut reader), Err(XdrError::Truncated));
        let mut reader = Reader::new(&[0xff; 4]);
        assert_eq!(
            Vec::<u64>::decode_bounded(16, &mut reader),
            Err(XdrError::TooLong { length: 0xffff_ffff, limit: 16 })
        );
    }

    #[test]
    fn values_outside_of_their_type_are_refused() {
        assert!(bool::from_bytes(&[0, 0, 0, 2]).is_err());
        assert!(u8::from_bytes(&[0, 0, 1, 0]).is_err());
        assert_eq!(i8::from_bytes(&[0xff; 4]), Ok(-1));
        assert!(u16::from_bytes(&[0xff; 4]).is_err());
        assert_eq!(String::from_bytes(&[0, 0, 0, 1, 0, 0, 0, 0]), Err(XdrError::Text), "NUL");
        assert_eq!(String::from_bytes(&[0, 0, 0, 1, 0xff, 0, 0, 0]), Err(XdrError::Text), "not UTF-8");
        assert!(String::from_bytes(&[0, 0, 0, 1, b'a', 0, 0, 1]).is_err(), "padding");
        assert_eq!(u32::from_bytes(&[0; 5]), Err(XdrError::Trailing(1)));
    }

    #[test]
    fn a_string_beyond_the_limit_is_not_sent() {
        let long = "x".repeat(STRING_MAX + 1);
        assert!(matches!(long.encode(&mut Vec::new()), Err(XdrError::TooLong { .. })));
    }
}
