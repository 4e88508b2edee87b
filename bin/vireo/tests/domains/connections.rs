//! How the daemon is found, and what is said when it isn't.

use super::*;

#[test]
fn a_uri_at_the_verb_counts_before_one_in_front_of_it_and_that_before_the_variable() {
    let place = Place::with(&[("one", "")]);
    let uri = place.uri();
    let nowhere = "qemu:///system?socket=/nowhere";
    let said =
        |variable: &str, arguments: &[&str]| Said::of(vireo(arguments).env("VIREO_URI", variable)).code;
    assert_eq!(said(&uri, &["domid", "one"]), Some(0));
    assert_eq!(said(nowhere, &["domid", "one"]), Some(3));
    assert_eq!(said(nowhere, &["-c", &uri, "domid", "one"]), Some(0));
    assert_eq!(said(nowhere, &["-c", nowhere, "domid", "one", "-c", &uri]), Some(0));
    assert_eq!(said(&uri, &["-c", nowhere, "domid", "one"]), Some(3));
}

#[test]
fn a_users_own_daemon_is_found_without_a_uri() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: for root the default place is the host's");
        return;
    }
    let place = Place::with(&[("one", "")]);
    let home = place.path("home");
    std::fs::create_dir_all(home.join("vireo")).unwrap();
    std::os::unix::fs::symlink(place.path("run/libvirt-sock"), home.join("vireo/libvirt-sock")).unwrap();
    let said = Said::of(vireo(&["list", "--all", "--name"]).env("XDG_RUNTIME_DIR", home));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "one\n"));
}

#[test]
fn without_a_daemon_the_message_says_where_it_was_looked_for_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("qemu:///system?socket={}/no", directory.path().display());
    let said = Said::of(vireo(&["list"]).env("VIREO_URI", &uri));
    said.failed(3, &["vireo list: cannot connect", "/no: No such file", "is the daemon running?"]);
    for (uri, named) in [
        ("qemu+ssh://host/system", "another host"),
        ("demo", "\"demo\" is no connection URI"),
        ("qemu:///system?socket=relative", "\"relative\" of the URI is not an absolute path"),
    ] {
        Said::of(&mut vireo(&["list", "-c", uri])).failed(2, &["vireo list: cannot connect", named]);
    }
}

#[test]
fn what_is_no_daemon_is_an_error_and_no_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let uri = format!("qemu:///system?socket={}", path.display());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::{Read, Write};
            let (mut client, _) = listener.accept().unwrap();
            let mut call = [0; 28];
            client.read_exact(&mut call).unwrap();
            // A frame of 4 GiB.
            client.write_all(&[0xff; 28]).unwrap();
        });
        Said::of(&mut vireo(&["list", "-c", &uri])).failed(3, &["the daemon sends what it must not"]);
    });
}

#[test]
fn unknown_names_are_answered_with_near_ones() {
    let place = Place::with(&[("demo", ""), ("web", "")]);
    place.fails(&["info", "dmeo"], 4, &["vireo info: there is no domain \"dmeo\"", "did you mean demo?"]);
    place.fails(&["info", "mail"], 4, &["vireo list --all"]);
    // Names first of all, then numbers and UUIDs of what is there.
    let uuid = place.ok(&["domuuid", "web"]);
    assert_eq!(place.ok(&["domname", uuid.trim()]), "web\n");
    place.fails(&["info", "7"], 4, &["there is no domain \"7\""]);
    place.fails(&["info", "0c4b8f6e-12d3-4c5b-9e7a-000000000001"], 4, &["no domain"]);
}

#[test]
fn a_connection_for_looking_changes_nothing() {
    let place = Place::with(&[("one", "")]);
    place.ok(&["-r", "list", "--all"]);
    place.ok(&["dumpxml", "one", "--readonly"]);
    place.fails(&["undefine", "one", "-r"], 6, &["read only access", "connect without --readonly"]);
    place.fails(&["dumpxml", "one", "-r", "--security-info"], 6, &["read only access"]);
    assert_eq!(place.ok(&["list", "--all", "--name"]), "one\n");
}

#[test]
fn errors_in_json_can_be_told_apart() {
    let place = Place::with(&[("one", "")]);
    let error = |arguments: &[&str]| -> Value {
        let said = place.say(arguments);
        assert!(said.out.is_empty(), "{said:?}");
        serde_json::from_str::<Value>(&said.err).unwrap()["error"].clone()
    };
    let missing = error(&["--json", "start", "oen"]);
    assert_eq!(
        (missing["kind"].as_str(), missing["libvirt_code"].as_i64()),
        (Some("no-such-object"), Some(42))
    );
    assert_eq!(missing["advice"], "did you mean one?");
    let stopped = error(&["reset", "one", "--json"]);
    assert_eq!((stopped["kind"].as_str(), stopped["libvirt_code"].as_i64()), (Some("wrong-state"), Some(55)));
    assert!(stopped["message"].as_str().unwrap().starts_with("cannot reset domain one: "), "{stopped}");
}

#[test]
fn help_tells_the_exit_codes_and_options_that_are_wrong_end_with_two() {
    let help = Said::of(&mut vireo(&["start", "--help"]));
    for part in ["Exit codes:", "  5  the domain is in the wrong state", "--connect <URI>", "--json"] {
        assert!(help.out.contains(part), "no {part} in {}", help.out);
    }
    let similar = Said::of(&mut vireo(&["strat", "x"]));
    assert_eq!(similar.code, Some(2));
    assert!(similar.err.contains("start"), "{similar:?}");
    Said::of(&mut vireo(&["-c", "qemu:///system", "lab", "--", "true"])).failed(2, &["asks no daemon"]);
}

#[test]
fn shells_complete_verbs_and_names_of_domains() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Said::of(&mut vireo(&["completions", shell]));
        assert!(script.code == Some(0) && script.out.contains("COMPLETE"), "{shell}: {script:?}");
    }
    Said::of(&mut vireo(&["completions", "tcl"])).failed(2, &["tcl"]);
    let place = Place::with(&[("demo", ""), ("web", "")]);
    let completed = |words: &[&str]| {
        let mut command = place.command(&[]);
        command.arg("--").args(words).env("COMPLETE", "fish");
        Said::of(&mut command).out
    };
    let verbs = completed(&["vireo", "dum"]);
    assert!(verbs.starts_with("dumpxml"), "{verbs}");
    assert_eq!(completed(&["vireo", "start", "d"]), "demo\n");
}
