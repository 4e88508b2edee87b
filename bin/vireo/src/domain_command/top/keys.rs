//! Keys that a terminal sends.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Enter,
    Escape,
    Erase,
    /// Ctrl-C: in raw mode it is no signal.
    Interrupt,
    Letter(char),
}

/// What was typed; sequences of keys that have no meaning here are passed over (ECMA-48, 5.4).
pub(super) fn keys(bytes: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(bytes);
    let mut letters = text.chars().peekable();
    let mut keys = Vec::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' if letters.next_if(|next| matches!(next, '[' | 'O')).is_some() => {
                let end = letters.by_ref().find(|letter| matches!(letter, '@'..='~'));
                match end {
                    Some('A') => keys.push(Key::Up),
                    Some('B') => keys.push(Key::Down),
                    _ => {}
                }
            }
            '\u{1b}' => keys.push(Key::Escape),
            '\r' | '\n' => keys.push(Key::Enter),
            '\u{7f}' | '\u{8}' => keys.push(Key::Erase),
            '\u{3}' => keys.push(Key::Interrupt),
            letter if !letter.is_control() => keys.push(Key::Letter(letter)),
            _ => {}
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_and_letters_are_told_apart() {
        assert_eq!(keys(b"\x1b[A\x1b[Bq"), [Key::Up, Key::Down, Key::Letter('q')]);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b[1;5Cx\r\x7f\x03"), [Key::Letter('x'), Key::Enter, Key::Erase, Key::Interrupt]);
        assert_eq!(keys("ä\x1b[".as_bytes()), [Key::Letter('ä')]);
    }
}
