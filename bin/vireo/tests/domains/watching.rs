//! Verbs that watch: stats, top, events.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;

use super::person::Person;
use super::*;

#[test]
fn figures_have_libvirts_names() {
    let place = Place::with(&[("one", ""), ("two", "")]);
    let all = place.ok(&["stats", "--state", "--vcpu"]);
    assert!(all.starts_with("Domain: 'one'\n  state.state=5\n  state.reason="), "{all}");
    assert!(all.contains("Domain: 'two'") && all.contains("  vcpu.maximum=2\n"), "{all}");
    let told = place.json(&["domstats", "--balloon", "two"]);
    assert_eq!(told.as_array().unwrap().len(), 1);
    assert_eq!(told[0]["stats"]["balloon.maximum"], 65_536);
    assert_eq!(place.ok(&["stats", "--list-active"]), "");
    place.fails(&["stats", "three"], 4, &["there is no domain \"three\""]);
    place.fails(&["stats", "one", "--list-active"], 2, &["cannot be used with"]);
}

#[test]
fn top_without_a_terminal_prints_one_table() {
    let place = Place::with(&[("one", ""), ("two", "")]);
    place.ok(&["start", "two"]);
    let shown = place.ok(&["top", "--interval", "0.1", "--sort", "name"]);
    let rows: Vec<_> = shown.lines().skip(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["one", "two"], "{shown}");
    assert_eq!(place.ok(&["top", "-i", "0.1", "-f", "tw"]).lines().count(), 3);
    let told = place.json(&["top", "--interval", "0.1", "--filter", "two"]);
    assert_eq!((&told[0]["name"], &told[0]["state"]), (&"two".into(), &"running".into()));
    place.fails(&["top", "--interval", "0"], 2, &["shortest interval"]);
}

#[test]
fn top_obeys_keys_and_leaves_the_terminal_as_it_was() {
    let place = Place::with(&[("one", ""), ("two", "")]);
    place.ok(&["start", "two"]);
    let mut person = Person::starts(place.command(&["top", "--interval", "0.2"]));
    person.waits_for("2 domains, 1 active");
    assert!(!person.echoes());
    person.types("/on");
    person.waits_for("filter: on_");
    person.looks_away();
    person.waits_for("1 domains, 0 active");
    person.types("\r");
    person.waits_for("(only on)");
    person.looks_away();
    person.types("\u{1b}");
    person.waits_for("2 domains");
    person.types("a\u{1b}[B");
    person.waits_for(">one");
    person.looks_away();
    person.types("j");
    person.waits_for(">two");
    person.types("q");
    // Back from the other screen, with its cursor.
    person.waits_for("\u{1b}[?25h\u{1b}[?1049l");
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.echoes());
}

#[test]
fn top_ends_by_a_signal_and_leaves_the_terminal_as_it_was() {
    let place = Place::with(&[("one", "")]);
    let mut person = Person::starts(place.command(&["top"]));
    person.waits_for("1 domains");
    person.signals(Signal::TERM);
    person.waits_for("\u{1b}[?25h\u{1b}[?1049l");
    assert_eq!(person.exit_code(), Some(143));
    assert!(person.echoes());
}

/// Starts to listen, and returns when the daemon knows: what happens after that is heard.
fn listening(place: &Place, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = place.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    // Definitions are made until the first of them is heard of.
    let file = place.document("first", "");
    let heard = std::sync::atomic::AtomicBool::new(false);
    let heard = &heard;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !heard.load(std::sync::atomic::Ordering::SeqCst) {
                place.ok(&["define", &file]);
            }
        });
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        heard.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(line.contains("first"), "{line}");
    });
    (child, output)
}

/// The next line that is about the domain.
fn next(output: &mut impl BufRead, domain: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the end");
        if line.contains(&format!("'{domain}'")) || line.contains(&format!("\"{domain}\"")) {
            return line;
        }
    }
}

#[test]
fn events_are_printed_as_they_happen() {
    let place = Place::with(&[("one", "")]);
    let (mut child, mut output) = listening(&place, &["events", "--event", "lifecycle"]);
    place.ok(&["start", "one"]);
    // As with libvirt, that it runs is told as well.
    while next(&mut output, "one") != "event 'lifecycle' for domain 'one': Started Booted\n" {}
    place.ok(&["destroy", "one"]);
    while next(&mut output, "one") != "event 'lifecycle' for domain 'one': Stopped Destroyed\n" {}
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn events_in_json_are_a_line_each() {
    let place = Place::with(&[("one", "")]);
    let (mut child, mut output) = listening(&place, &["events", "--json"]);
    place.ok(&["title", "one", "new"]);
    let told: Value = serde_json::from_str(&next(&mut output, "one")).unwrap();
    assert_eq!((&told["event"], &told["type"]), (&"metadata-change".into(), &"title".into()));
    assert_eq!(told["domain"]["name"], "one");
    assert!(told["time"].as_f64().unwrap() > 1e9);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn listening_ends_with_the_number_or_the_time() {
    let place = Place::with(&[("one", "")]);
    assert_eq!(place.ok(&["events", "--timeout", "0.1"]), "events received: 0\n");
    let late = place.say(&["event", "--all", "--timeout", "0.1"]);
    assert_eq!((late.code, late.out.as_str()), (Some(7), "events received: 0\n"));
    let (mut child, _output) = listening(&place, &["event", "--all"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(place.ok(&["events", "--list"]).starts_with("lifecycle\nreboot\n"));
    place.fails(
        &["events", "--event", "lifecicle"],
        2,
        &["no kind of event \"lifecicle\"", "did you mean lifecycle?"],
    );
    place.fails(&["events", "--domain", "two"], 4, &["there is no domain"]);
}
