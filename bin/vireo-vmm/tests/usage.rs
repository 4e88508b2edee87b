//! The program as a person meets it: exit codes and where its words go.

use std::process::{Command, Output};

fn vireo_vmm(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vireo-vmm")).args(words).output().expect("it has been built")
}

#[test]
fn help_and_version_go_to_standard_output_and_succeed() {
    for word in ["--help", "--version"] {
        let output = vireo_vmm(&[word]);
        assert_eq!(output.status.code(), Some(0), "{word}");
        assert!(output.stdout.starts_with(b"vireo-vmm"), "{word}");
        assert!(output.stderr.is_empty(), "{word}");
    }
}

#[test]
fn what_is_refused_is_said_in_one_line_on_standard_error_with_exit_code_2() {
    for (words, expected) in [
        (vec![], "nothing to do"),
        (vec!["--colour", "red"], "--colour: unknown option"),
        (vec!["--memory", "1G"], "no kernel"),
        (vec!["--kernel", "k", "--memory", "1M"], "at least 64M"),
        (vec!["--kernel", "k", "--log-file", "/absent/log"], "--log-file: cannot open \"/absent/log\""),
    ] {
        let output = vireo_vmm(&words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(output.stdout.is_empty(), "{words:?}");
        assert!(text.starts_with("vireo-vmm: ") && text.contains(expected), "{words:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
