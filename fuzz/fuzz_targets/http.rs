//! What a client sends to the control API, several requests one after the other, with a driver that refuses or accepts.
//!
//! Held true: nothing panics; each request takes a part of what was sent; what its bytes are does not depend on how many
//! have arrived (a request that was answered is answered alike without what follows it); each answer is one HTTP response
//! whose length is that of its body.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vmm::api::fuzzing::respond;
use vmm::control::{Action, ControlError, Controller, Reply, Request, VmState};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Some((response, taken)) = respond(rest, controller()) {
        check(&response);
        assert!(taken > 0 && taken <= rest.len());
        let closes = response.windows(17).any(|window| window == b"Connection: close");
        if !closes {
            let again = respond(&rest[..taken], controller());
            assert!(again.is_some_and(|(_, length)| length == taken), "the rest changed the request");
            assert!(respond(&rest[..taken - 1], controller()).is_none_or(|(_, length)| length < taken));
        }
        rest = &rest[taken..];
        if rest.is_empty() {
            return;
        }
    }
});

fn check(response: &[u8]) {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = std::str::from_utf8(&response[..end]).expect("a head of ASCII");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.map_or(0, |length| length.parse().expect("a number"));
    assert_eq!(response.len() - end - 4, length, "{head}");
    if length > 0 {
        serde_json::from_slice::<serde_json::Value>(&response[end + 4..]).expect("JSON");
    }
}

/// A driver that keeps the machine that it was given last.
fn controller() -> &'static Controller {
    static CONTROLLER: OnceLock<Controller> = OnceLock::new();
    CONTROLLER.get_or_init(|| {
        let created = parking_lot::Mutex::new(None);
        Controller::new(move |Request { action, reply }| {
            let answer = match action {
                Action::Create(spec) => {
                    *created.lock() = Some(spec);
                    Ok(Reply::Done)
                }
                Action::Info => match created.lock().clone() {
                    Some(spec) => Ok(Reply::Info {
                        memory_actual_bytes: spec.memory.bytes,
                        spec,
                        state: VmState::Created,
                        pseudo_terminals: Vec::new(),
                    }),
                    None => Err(ControlError::NotCreated),
                },
                Action::Counters => Ok(Reply::Counters(vec![("disk0".to_owned(), vec![("read_ops", 1)])])),
                Action::Pause => Err(ControlError::WrongState { action: "pause", state: VmState::Created }),
                _ => Ok(Reply::Done),
            };
            let _ = reply.send(answer);
            Ok(())
        })
    })
}
