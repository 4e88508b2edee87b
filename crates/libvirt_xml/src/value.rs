//! Values in attributes and texts: words, numbers, identifiers, sets of CPUs.

use std::fmt::{self, Display};

use crate::error::XmlFault;

/// A value as it stands in an attribute or a text.
pub trait Value: Sized {
    /// Reads it. The fault says what it should have been, or that nothing here can honour it.
    fn read(text: &str) -> Result<Self, XmlFault>;

    /// Writes it as libvirt does.
    fn print(&self) -> String;
}

/// `value` is not `expected`.
pub(crate) fn invalid(value: &str, expected: &str) -> XmlFault {
    XmlFault::Invalid { value: value.to_owned(), expected: expected.to_owned() }
}

impl Value for String {
    fn read(text: &str) -> Result<Self, XmlFault> {
        Ok(text.to_owned())
    }

    fn print(&self) -> String {
        self.clone()
    }
}

macro_rules! numbers {
    ($($type:ty: $expected:literal),*) => {$(
        impl Value for $type {
            fn read(text: &str) -> Result<Self, XmlFault> {
                text.trim().parse().map_err(|_| invalid(text, $expected))
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(
    u8: "a number from 0 to 255",
    u16: "a number from 0 to 65535",
    u32: "a number of up to 32 bits",
    u64: "a number of up to 64 bits",
    i32: "a number of up to 32 bits",
    i64: "a number of up to 64 bits"
);

/// Declares an enumeration of words. The first is the default; words after `refused` are known to libvirt, but not honoured here.
macro_rules! words {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident { $first:ident = $first_word:literal, $($variant:ident = $word:literal,)* }
        $(refused $($refused:literal),+;)?
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            #[doc = concat!("`", $first_word, "`")]
            #[default]
            $first,
            $(#[doc = concat!("`", $word, "`")] $variant,)*
        }

        impl $name {
            /// All of them, in the order of libvirt's documentation.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant),*];

            /// The word in the XML.
            pub fn word(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl $crate::value::Value for $name {
            fn read(text: &str) -> Result<Self, $crate::XmlFault> {
                match text.trim() {
                    $first_word => Ok(Self::$first),
                    $($word => Ok(Self::$variant),)*
                    $($(word @ $refused)|+ => Err($crate::XmlFault::Unsupported(format!("{word:?}"))),)?
                    other => {
                        let words: Vec<_> = Self::ALL.iter().map(|word| word.word()).collect();
                        Err($crate::value::invalid(other, &format!("one of {}", words.join(", "))))
                    }
                }
            }

            fn print(&self) -> String {
                self.word().to_owned()
            }
        }

        #[cfg(test)]
        impl $crate::draw::Draw for $name {
            fn draw(bytes: &mut $crate::draw::Bytes) -> Self {
                bytes.one_of(Self::ALL)
            }
        }
    )*};
}

pub(crate) use words;

words! {
    /// A switch.
    pub enum OnOff { On = "on", Off = "off", }
    /// A question.
    pub enum YesNo { Yes = "yes", No = "no", }
}

impl From<bool> for OnOff {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

impl From<bool> for YesNo {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// A number that is written in hexadecimal; read in decimal as well, as libvirt does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const DIGITS: usize>(pub u64);

impl<const DIGITS: usize> Value for Hex<DIGITS> {
    fn read(text: &str) -> Result<Self, XmlFault> {
        parse_number(text).map(Self).ok_or_else(|| invalid(text, "a number, decimal or with 0x hexadecimal"))
    }

    fn print(&self) -> String {
        format!("0x{:0width$x}", self.0, width = DIGITS)
    }
}

/// A decimal number, or a hexadecimal one with `0x`.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    // `from_str_radix` takes a sign, which no number here has.
    if text.starts_with('+') || text.contains("x+") {
        return None;
    }
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A UUID (RFC 9562), bytes in the order of its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Display for Uuid {
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

impl Value for Uuid {
    /// Takes hyphens anywhere or nowhere, as libvirt does, but 32 digits.
    fn read(text: &str) -> Result<Self, XmlFault> {
        let fault = || invalid(text, "a UUID");
        let digits: Vec<char> = text.trim().chars().filter(|character| *character != '-').collect();
        if digits.len() != 32 {
            return Err(fault());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = hex_pair(pair).ok_or_else(fault)?;
        }
        Ok(Self(bytes))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

fn hex_pair(digits: &[char]) -> Option<u8> {
    let mut byte = 0;
    for digit in digits {
        byte = byte * 16 + u8::try_from(digit.to_digit(16)?).ok()?;
    }
    Some(byte)
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it names a group and not one station (IEEE 802, the lowest bit of the first byte).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Value for MacAddress {
    fn read(text: &str) -> Result<Self, XmlFault> {
        let fault = || invalid(text, "an Ethernet address as in 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut bytes {
            let part: Vec<char> = parts.next().ok_or_else(fault)?.chars().collect();
            if part.is_empty() || part.len() > 2 {
                return Err(fault());
            }
            *byte = hex_pair(&part).ok_or_else(fault)?;
        }
        if parts.next().is_some() { Err(fault()) } else { Ok(Self(bytes)) }
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// Highest number in a [`NumberSet`]; libvirt's own limit for host CPUs.
pub const MAX_SET_MEMBER: u32 = 16383;

/// A set of CPUs or NUMA nodes, as in `1-3,^2,8`.
///
/// It is kept as ranges, so that its memory is bounded by the text that it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberSet {
    /// First and last of each range: ascending, apart by more than one.
    ranges: Vec<(u32, u32)>,
}

impl NumberSet {
    /// No member.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(first, last)| (last - first) as usize + 1).sum()
    }

    /// Whether it is a member.
    pub fn contains(&self, number: u32) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// Members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The highest member.
    pub fn max(&self) -> Option<u32> {
        self.ranges.last().map(|(_, last)| *last)
    }

    /// Whether a member is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.ranges.iter().any(|(a, b)| other.ranges.iter().any(|(c, d)| a <= d && c <= b))
    }

    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1 + 1 => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

impl FromIterator<u32> for NumberSet {
    /// Members above [`MAX_SET_MEMBER`] are left out.
    fn from_iter<I: IntoIterator<Item = u32>>(members: I) -> Self {
        let members = members.into_iter().filter(|member| *member <= MAX_SET_MEMBER);
        Self::from_ranges(members.map(|member| (member, member)).collect())
    }
}

impl Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

impl Value for NumberSet {
    fn read(text: &str) -> Result<Self, XmlFault> {
        let fault = || invalid(text, "a set of numbers as in 1-3,^2,8 (0 to 16383)");
        let number = |text: &str| {
            let number = text.trim();
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let number = if digits { number.parse::<u32>().ok() } else { None };
            number.filter(|number| *number <= MAX_SET_MEMBER).ok_or_else(fault)
        };
        let (mut members, mut excluded) = (Vec::new(), Vec::new());
        for item in text.split(',') {
            match item.trim().strip_prefix('^') {
                Some(one) => excluded.push(number(one)?),
                None => {
                    let (first, last) = item.split_once('-').unwrap_or((item, item));
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(fault());
                    }
                    members.push((first, last));
                }
            }
        }
        let mut left = Vec::new();
        excluded.sort_unstable();
        for (mut first, last) in Self::from_ranges(members).ranges {
            let start = excluded.partition_point(|one| *one < first);
            for one in excluded[start..].iter().take_while(|one| **one <= last) {
                if *one > first {
                    left.push((first, one - 1));
                }
                first = one + 1;
            }
            if first <= last {
                left.push((first, last));
            }
        }
        Ok(Self::from_ranges(left))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}
