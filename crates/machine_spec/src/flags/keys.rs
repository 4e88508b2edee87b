//! `key=value,key=value`: how the value of an option is taken apart.
//!
//! A value may be put between double quotes, inside which a backslash makes the next character plain, so that paths may
//! have commas. Brackets hold a list: `fd=[3,4]`.

use std::str::FromStr;

use super::FlagError;

/// The parts of an option's value, by key.
pub(super) struct Keys {
    option: &'static str,
    parts: Vec<(&'static str, String)>,
    /// The items of the values that are lists, by key.
    lists: Vec<(&'static str, Vec<String>)>,
}

impl Keys {
    /// Takes `text` apart. The first part may come without a key and then has the key `first`.
    pub(super) fn parse(
        option: &'static str,
        first: Option<&'static str>,
        known: &[&'static str],
        text: &str,
    ) -> Result<Self, FlagError> {
        if text.is_empty() {
            return Err(FlagError::NoValue { option });
        }
        let mut parts: Vec<(&'static str, String)> = Vec::new();
        let mut lists = Vec::new();
        for (index, part) in split(option, text)?.into_iter().enumerate() {
            let key = match (part.key, first) {
                (Some(key), _) => match known.iter().find(|candidate| **candidate == key) {
                    Some(key) => *key,
                    None => return Err(FlagError::UnknownKey { option, key, known: known.join(", ") }),
                },
                // A key without its value rather than a value without its key.
                (None, _) if !part.quoted && known.contains(&part.value.as_str()) => {
                    return Err(FlagError::MissingValue { option, key: part.value });
                }
                (None, Some(key)) if index == 0 => key,
                (None, _) => {
                    return Err(FlagError::NoKey { option, part: part.value, known: known.join(", ") });
                }
            };
            if part.value.is_empty() && !part.quoted {
                return Err(FlagError::MissingValue { option, key: key.to_owned() });
            }
            if parts.iter().any(|(other, _)| *other == key) {
                return Err(FlagError::DuplicateKey { option, key });
            }
            parts.push((key, part.value));
            lists.extend(part.items.map(|items| (key, items)));
        }
        Ok(Self { option, parts, lists })
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<String> {
        let index = self.parts.iter().position(|(candidate, _)| *candidate == key)?;
        Some(self.parts.swap_remove(index).1)
    }

    /// One text, or several as `[one,"t,w,o"]`.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        match self.lists.iter().position(|(candidate, _)| *candidate == key) {
            Some(index) => Some(self.lists.swap_remove(index).1),
            None => Some(vec![value]),
        }
    }

    /// One of the words, with what it stands for.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        expected: &'static str,
    ) -> Result<Option<T>, FlagError> {
        self.converted(key, expected, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
        })
    }

    fn converted<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, FlagError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match convert(&value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(FlagError::Value { option: self.option, key, value, expected }),
        }
    }

    pub(super) fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, FlagError> {
        self.converted(key, expected, |text| text.parse().ok())
    }

    pub(super) fn number<T: FromStr>(&mut self, key: &'static str) -> Result<Option<T>, FlagError> {
        self.converted(key, "a decimal number in its range", number)
    }

    /// `3` or `[3,4]`.
    pub(super) fn numbers(&mut self, key: &'static str) -> Result<Option<Vec<i32>>, FlagError> {
        self.converted(key, "a number, or several as [3,4]", |text| {
            let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            list.split(',').map(number).collect()
        })
    }

    pub(super) fn switch(&mut self, key: &'static str) -> Result<Option<bool>, FlagError> {
        self.converted(key, "on or off", |text| match text {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        })
    }

    pub(super) fn size(&mut self, key: &'static str) -> Result<Option<u64>, FlagError> {
        self.converted(key, "a number of bytes, or one with K, M, G or T such as 512M", size)
    }
}

/// The value of an option that has no keys.
pub(super) fn plain_value<'a>(option: &'static str, value: &'a str) -> Result<&'a str, FlagError> {
    if value.is_empty() { Err(FlagError::NoValue { option }) } else { Ok(value) }
}

/// A number in decimal digits, without a sign.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A size in bytes, or in multiples of a power of 1024.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    number::<u64>(digits)?.checked_mul(1 << shift)
}

/// A part between two commas.
#[derive(Default)]
struct Part {
    key: Option<String>,
    value: String,
    /// Quotes were used, so an empty value is meant.
    quoted: bool,
    /// Of a list, without its brackets; quoted commas do not divide.
    items: Option<Vec<String>>,
}

impl Part {
    fn push(&mut self, character: char, in_brackets: bool) {
        self.value.push(character);
        if in_brackets && let Some(item) = self.items.as_mut().and_then(|items| items.last_mut()) {
            item.push(character);
        }
    }
}

fn split(option: &'static str, text: &str) -> Result<Vec<Part>, FlagError> {
    let unbalanced = |delimiter| FlagError::Unbalanced { option, delimiter, value: text.to_owned() };
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut in_brackets = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                part.quoted = true;
                loop {
                    match characters.next() {
                        None => return Err(unbalanced('"')),
                        Some('"') => break,
                        Some('\\') => {
                            part.push(characters.next().ok_or_else(|| unbalanced('"'))?, in_brackets);
                        }
                        Some(plain) => part.push(plain, in_brackets),
                    }
                }
            }
            '[' if in_brackets => return Err(unbalanced('[')),
            ']' if !in_brackets => return Err(unbalanced(']')),
            '[' | ']' => {
                in_brackets = character == '[';
                part.value.push(character);
                part.items.get_or_insert_with(|| vec![String::new()]);
            }
            ',' if !in_brackets => parts.push(std::mem::take(&mut part)),
            ',' => {
                part.value.push(',');
                part.items.get_or_insert_default().push(String::new());
            }
            '=' if part.key.is_none() && !part.quoted => part.key = Some(std::mem::take(&mut part.value)),
            plain => part.push(plain, in_brackets),
        }
    }
    if in_brackets {
        return Err(unbalanced('['));
    }
    parts.push(part);
    Ok(parts)
}
