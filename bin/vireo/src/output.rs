//! Printing for people and for programs.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

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

/// Tells what has been done to an object: `Pool 'images' started`, or in JSON who it is and `done`.
pub(crate) fn done(
    json: bool,
    kind: &str,
    name: &str,
    who: serde_json::Value,
    done: &str,
) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&serde_json::json!({ kind: who, "done": done }))?;
    } else {
        let mut kind = kind.to_owned();
        kind[..1].make_ascii_uppercase();
        print(&format!("{kind} '{}' {done}\n", harmless(name)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `yes` or `no`, as virsh says it.
pub(crate) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
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

/// A time since 1970 as the wall clock showed it here.
pub(crate) fn local_time(seconds: i64) -> String {
    broken_down(seconds).map_or_else(
        || format!("{seconds} s"),
        |parts| {
            format!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
                i64::from(parts.tm_year) + 1900,
                parts.tm_mon + 1,
                parts.tm_mday,
                parts.tm_hour,
                parts.tm_min,
                parts.tm_sec
            )
        },
    )
}

#[expect(unsafe_code, reason = "localtime_r(3) knows the time zone")]
fn broken_down(time: libc::time_t) -> Option<libc::tm> {
    // SAFETY: a structure of numbers and a pointer, for which zero is a value.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live across the call; nothing else in this program sets the environment.
    let found = unsafe { libc::localtime_r(&raw const time, &raw mut parts) };
    (!found.is_null()).then_some(parts)
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
