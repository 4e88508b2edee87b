//! Verbs about running machines: a real daemon, a mock machine.

use super::*;

#[test]
fn a_machine_is_started_and_its_guest_shut_down() {
    let place = Place::with(&[("one", "")]);
    assert_eq!(place.ok(&["start", "one"]), "Domain 'one' started\n");
    assert_eq!(place.state("one"), "running (booted)");
    assert_eq!(place.ok(&["list", "--id", "--name"]), "1 one\n");
    assert_eq!(place.ok(&["domname", "1"]), "one\n");
    place.fails(
        &["start", "one"],
        5,
        &["cannot start domain one: ", "already", "`vireo list` shows what runs"],
    );
    assert_eq!(place.ok(&["stop", "one", "--wait"]), "Domain 'one' shut down\n");
    assert_eq!(place.state("one"), "shut off (shutdown)");
    for verb in ["stop", "shutdown", "destroy", "reboot", "reset", "pause", "suspend", "resume"] {
        place.fails(&[verb, "one"], 5, &["domain is not running", "`vireo start` starts a domain"]);
    }
    place.fails(&["start", "two"], 4, &["there is no domain"]);
}

#[test]
fn a_machine_is_paused_goes_on_and_is_reset() {
    let place = Place::with(&[("one", "button=ignore")]);
    let started = place.json(&["start", "one", "--paused"]);
    assert_eq!((&started["done"], &started["domain"]["id"]), (&"started".into(), &1.into()));
    assert_eq!(place.state("one"), "paused (user)");
    assert_eq!(place.ok(&["resume", "one"]), "Domain 'one' resumed\n");
    assert_eq!(place.ok(&["suspend", "one"]), "Domain 'one' suspended\n");
    place.ok(&["resume", "one"]);
    place.fails(&["resume", "one"], 5, &["cannot resume domain one"]);
    assert_eq!(place.ok(&["reset", "one"]), "Domain 'one' was reset\n");
    assert_eq!(place.ok(&["reboot", "one", "--mode", "acpi"]), "Domain 'one' is being rebooted\n");
    place.fails(&["reboot", "one", "--mode", "horn"], 2, &["horn"]);
    assert_eq!(place.ok(&["list", "--state-running", "--name"]), "one\n");
}

#[test]
fn a_guest_that_does_not_listen_is_ended_by_force() {
    let place = Place::with(&[("one", "button=ignore")]);
    place.ok(&["start", "one"]);
    assert_eq!(place.ok(&["shutdown", "one"]), "Domain 'one' is being shutdown\n");
    place.fails(
        &["stop", "one", "--timeout", "0.2"],
        7,
        &["domain one is still up after 200ms", "`vireo stop --force` ends it"],
    );
    assert_eq!(place.ok(&["stop", "one", "--timeout", "0.2", "--force"]), "Domain 'one' destroyed\n");
    assert_eq!(place.state("one"), "shut off (destroyed)");
    place.ok(&["start", "one"]);
    assert_eq!(place.ok(&["stop", "-f", "one"]), "Domain 'one' destroyed\n");
    place.ok(&["start", "one"]);
    assert_eq!(place.ok(&["destroy", "one"]), "Domain 'one' destroyed\n");
}

#[test]
fn a_definition_of_a_running_machine_goes_and_the_machine_with_its_end() {
    let place = Place::with(&[("one", "")]);
    place.ok(&["start", "one"]);
    place.ok(&["undefine", "one"]);
    assert_eq!(place.ok(&["list", "--transient", "--name"]), "one\n");
    assert_eq!(place.json(&["info", "one"])["persistent"], false);
    // Gone is down.
    assert_eq!(place.ok(&["stop", "one", "--wait"]), "Domain 'one' shut down\n");
    assert_eq!(place.ok(&["list", "--all", "--name"]), "");
}

#[test]
fn waiting_ends_with_the_state_or_the_time() {
    let place = Place::with(&[("one", "")]);
    place.ok(&["wait", "one", "--state", "shutoff"]);
    place.fails(
        &["wait", "one", "-s", "running", "-t", "0.1"],
        7,
        &["domain one is not running after 100ms", "domstate"],
    );
    let mut waiting = place.command(&["wait", "one", "--state", "paused", "--timeout", "30", "--json"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    place.ok(&["start", "one", "--paused"]);
    let said = Said::from(waiting.wait_with_output().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()["state"], "paused");
    place.fails(&["wait", "one"], 2, &["--state <STATE>|--address"]);
    place.fails(&["wait", "two", "--address"], 4, &["there is no domain"]);
    place.ok(&["destroy", "one"]);
    place.fails(&["wait", "one", "--address"], 5, &["domain one is not running"]);
}

#[test]
fn vcpus_are_shown_of_what_is_defined() {
    let place = Place::with(&[("one", "")]);
    let shown = place.ok(&["vcpuinfo", "one"]);
    assert_eq!(shown.matches("State:          N/A").count(), 2, "{shown}");
    assert!(shown.contains("CPU Affinity:   y"), "{shown}");
    assert!(place.ok(&["vcpuinfo", "one", "--pretty"]).contains("CPU Affinity:   0"));
    let told = place.json(&["vcpuinfo", "one"]);
    assert_eq!((&told["vcpus"][1]["vcpu"], &told["vcpus"][1]["cpu"]), (&1.into(), &Value::Null));
    place.fails(&["vcpuinfo", "two"], 4, &["there is no domain"]);
}
