//! Printing for people and for programs.

use std::io::{IsTerminal, Write};

use anyhow::Context;

/// Prints a document on standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot print the result")?;
    print(&format!("{text}\n"))
}

/// Prints text on standard output; a reader that has gone is an error, not a panic.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot print the result")
}

/// Whether standard output is for eyes that want colours: a terminal that knows them, and nobody said no (no-color.org).
pub(crate) fn colours() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|terminal| terminal != "dumb")
}

/// An error with its causes, as far as it does not name them itself.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        _ if line.ends_with(&cause) => line,
        _ => format!("{line}: {cause}"),
    })
}

/// A size for people, with three digits that count, as qemu-img writes it: `1.46 MiB`.
pub(crate) fn readable(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Exact enough for three digits.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ if value >= 1.0 => 2,
        _ => 3,
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text} {}", UNITS[unit])
}

/// Text that may come from an image: control characters, which could change what a terminal shows, are escaped.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = letter.is_control().then(|| letter.escape_default());
            let plain = escaped.is_none().then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let sizes =
            [(0, "0 B"), (512, "512 B"), (1023, "0.999 KiB"), (197_120, "192 KiB"), (1_572_864, "1.5 MiB")];
        for (bytes, text) in sizes {
            assert_eq!(readable(bytes), text);
        }
        assert_eq!(readable(10 << 30), "10 GiB");
    }

    #[test]
    fn a_cause_that_was_named_is_not_named_again() {
        let cause = || std::io::Error::other("the host said no");
        assert_eq!(in_one_line(&anyhow::Error::from(cause()).context("disk")), "disk: the host said no");
        let outer = block_io::BlockError {
            path: "disk".into(),
            operation: "cannot open".to_owned(),
            source: cause(),
        };
        assert_eq!(
            in_one_line(&anyhow::Error::from(outer).context("a")),
            "a: disk: cannot open: the host said no"
        );
    }

    #[test]
    fn an_images_words_can_not_control_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(harmless("Schnappschuß"), "Schnappschuß");
    }
}
