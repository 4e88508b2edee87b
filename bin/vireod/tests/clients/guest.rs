//! What is asked of the agent in a guest, by virsh. The agent is made here; libvirt's own words are expected.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use super::{Place, python};

/// The domain `guest`, with an agent's channel or without; its machine ends with this value.
struct Guest<'a>(&'a Place);

impl<'a> Guest<'a> {
    fn start(place: &'a Place, channel: &str) -> Self {
        let document = format!(
            "<domain type='kvm'><name>guest</name><memory unit='MiB'>64</memory>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/none</kernel></os>
             <devices><console type='pty'/>{channel}</devices></domain>"
        );
        place.ok(&["define", &place.write("guest.xml", document)]);
        place.ok(&["start", "guest"]);
        Self(place)
    }

    fn with_agent(place: &'a Place) -> Self {
        Self::start(
            place,
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        )
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.0.virsh(&["destroy", "guest"]);
    }
}

/// What the agent returns for a command.
const ANSWERS: [(&str, &str); 14] = [
    ("guest-ping", "{}"),
    ("guest-get-host-name", r#"{"host-name": "inside"}"#),
    ("guest-get-time", "1500000000999999999"),
    ("guest-set-time", "{}"),
    (
        "guest-network-get-interfaces",
        r#"[{"name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses":
            [{"ip-address": "192.0.2.7", "ip-address-type": "ipv4", "prefix": 24}]}]"#,
    ),
    (
        "guest-get-fsinfo",
        r#"[{"name": "vda1", "mountpoint": "/", "type": "ext4", "disk": [], "used-bytes": 5, "total-bytes": 10}]"#,
    ),
    ("guest-fsfreeze-freeze", "3"),
    ("guest-fsfreeze-freeze-list", "1"),
    ("guest-fsfreeze-thaw", "3"),
    ("guest-fstrim", r#"{"paths": [{"path": "/", "minimum": 0, "trimmed": 1}]}"#),
    ("guest-get-osinfo", r#"{"id": "debian", "kernel-release": "6.12"}"#),
    ("guest-get-users", r#"[{"user": "root", "login-time": 12.5}]"#),
    ("guest-get-timezone", r#"{"zone": "UTC", "offset": 0}"#),
    ("guest-set-user-password", "{}"),
];

/// Answers as an agent would; what it was asked last but for synchronizing, when it is joined.
fn agent(place: &Place, clients: usize) -> std::thread::JoinHandle<Vec<String>> {
    let uuid = place.ok(&["domuuid", "guest"]);
    let socket = place.path("run/machines").join(uuid.trim()).join("org.qemu.guest_agent.0.sock");
    let listener = UnixListener::bind(socket).unwrap();
    let answer = move || {
        let mut asked = Vec::new();
        for _ in 0..clients {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            loop {
                let mut line = Vec::new();
                if reader.read_until(b'\n', &mut line).unwrap() == 0 {
                    break;
                }
                let text =
                    String::from_utf8(line.into_iter().filter(|byte| *byte != 0xFF).collect()).unwrap();
                if let Some((_, rest)) = text.split_once("\"id\":") {
                    let id: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    stream.write_all(&[b"\xFF{\"return\": ", id.as_bytes(), b"}\n"].concat()).unwrap();
                    continue;
                }
                let found = ANSWERS.iter().find(|(name, _)| text.contains(&format!("\"{name}\"")));
                let answer = match found {
                    Some((_, answer)) => format!("{{\"return\": {}}}\n", answer.replace('\n', " ")),
                    None => {
                        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"not here\"}}\n".to_owned()
                    }
                };
                stream.write_all(answer.as_bytes()).unwrap();
                asked.push(text.trim().to_owned());
            }
        }
        asked
    };
    std::thread::Builder::new().name("agent".into()).spawn(answer).unwrap()
}

#[test]
fn virsh_asks_the_agent() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = Guest::with_agent(&place);
    let agent = agent(&place, 15);
    let said = |arguments: &[&str]| place.ok(arguments).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(said(&["qemu-agent-command", "guest", r#"{"execute":"guest-ping"}"#]), r#"{"return": {}}"#);
    assert_eq!(said(&["domhostname", "guest"]), "inside");
    assert_eq!(said(&["domtime", "guest"]), "Time: 1500000000");
    said(&["domtime", "guest", "--time", "7"]);
    said(&["domtime", "guest", "--sync"]);
    let addresses = said(&["domifaddr", "guest", "--source", "agent"]);
    assert!(addresses.ends_with("eth0 52:54:00:00:00:01 ipv4 192.0.2.7/24"), "{addresses}");
    let systems = said(&["domfsinfo", "guest"]);
    assert!(systems.ends_with("/ vda1 ext4"), "{systems}");
    assert_eq!(said(&["domfsfreeze", "guest"]), "Froze 3 filesystem(s)");
    assert_eq!(said(&["domfsfreeze", "guest", "/"]), "Froze 1 filesystem(s)");
    assert_eq!(said(&["domfsthaw", "guest"]), "Thawed 3 filesystem(s)");
    said(&["domfstrim", "guest"]);
    let information = said(&["guestinfo", "guest", "--os", "--user", "--hostname"]);
    for part in ["os.id : debian", "user.0.name : root", "user.0.login-time : 12500", "hostname : inside"] {
        assert!(information.contains(part), "no {part} in {information}");
    }
    said(&["set-user-password", "guest", "root", "geheim"]);
    drop(_guest);
    let asked = agent.join().unwrap();
    for part in [
        r#"{"execute":"guest-set-time","arguments":{"time":7000000000}}"#,
        r#"{"execute":"guest-set-time"}"#,
        r#"{"execute":"guest-fsfreeze-freeze-list","arguments":{"mountpoints":["/"]}}"#,
    ] {
        let parsed = |text: &str| {
            let mut words: Vec<_> = text.split(['{', '}', ',']).map(str::to_owned).collect();
            words.sort();
            words
        };
        assert!(asked.iter().any(|asked| parsed(asked) == parsed(part)), "no {part} in {asked:?}");
    }
}

#[test]
fn without_an_agent_libvirts_errors_are_told() {
    let place = Place::new();
    let _vireod = place.start();
    let guest = Guest::start(&place, "");
    for arguments in [
        ["domhostname", "guest", "--source", "agent"].as_slice(),
        &["domtime", "guest"],
        &["domfsinfo", "guest"],
        &["guestinfo", "guest"],
        &["qemu-agent-command", "guest", "{\"execute\":\"guest-ping\"}"],
        &["domifaddr", "guest", "--source", "agent"],
    ] {
        place.fails(arguments, &["argument unsupported: QEMU guest agent is not configured"]);
    }
    place.fails(&["shutdown", "guest", "--mode", "agent"], &["QEMU guest agent is not configured"]);
    drop(guest);
    place.fails(&["domtime", "guest"], &["domain is not running"]);
    place.ok(&["undefine", "guest"]);
    let guest = Guest::with_agent(&place);
    let message = "Guest agent is not responding: QEMU guest agent is not connected";
    place.fails(&["domtime", "guest"], &[message]);
    let program = "
domain = connection.lookupByName('guest')
try:
    domain.hostname(libvirt.VIR_DOMAIN_GET_HOSTNAME_AGENT)
except libvirt.libvirtError as error:
    assert error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE, error.get_error_code()
else:
    raise AssertionError('no error')
try:
    domain.hostname(libvirt.VIR_DOMAIN_GET_HOSTNAME_LEASE)
except libvirt.libvirtError as error:
    assert error.get_error_code() == libvirt.VIR_ERR_NO_HOSTNAME, error.get_error_code()
";
    let said = python(&place.uri(&place.socket()), program);
    assert!(said.status.success(), "{said:?}");
    // What only the agent can't do is done by the button.
    place.ok(&["suspend", "guest"]);
    place.fails(&["domtime", "guest"], &["domain is not running"]);
    place.ok(&["resume", "guest"]);
    place.ok(&["shutdown", "guest"]);
    drop(guest);
}

#[test]
fn commands_that_the_agent_or_the_daemon_does_not_take_are_refused() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = Guest::with_agent(&place);
    let agent = agent(&place, 2);
    let command = |text: &'static str| ["qemu-agent-command", "guest", text];
    place.fails(&command("no JSON"), &["cannot parse agent command"]);
    place.fails(
        &command("{\"execute\":\"nonsense\"}"),
        &["internal error: unable to execute QEMU agent command 'nonsense': not here"],
    );
    place.fails(
        &["domfstrim", "guest", "--mountpoint", "/"],
        &["argument unsupported: Specifying mount point is not supported for now"],
    );
    place.fails(&["shutdown", "guest", "--mode", "agent"], &["'guest-shutdown': not here"]);
    assert_eq!(agent.join().unwrap().len(), 2);
}

#[test]
fn whether_the_agent_is_there_is_told_and_shown() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = Guest::with_agent(&place);
    let shown = || {
        let document = place.ok(&["dumpxml", "guest"]);
        let state = document.split("org.qemu.guest_agent.0' state='").nth(1).unwrap();
        state.split('\'').next().unwrap().to_owned()
    };
    assert_eq!(shown(), "disconnected");
    let program = "
import signal
signal.alarm(60)
libvirt.virEventRegisterDefaultImpl()
connection.close()
connection = libvirt.open(URI)
heard = []
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
    lambda connection, domain, state, reason, opaque: heard.append((domain.name(), state, reason)), None)
timer = libvirt.virEventAddTimeout(50, lambda *_: None, None)
guest = open(TERMINAL, 'wb', buffering=0)
for line, events in (('open org.qemu.guest_agent.0', 1), ('open another', 1), ('close another', 1), ('reset', 2),
                     ('open org.qemu.guest_agent.0', 3)):
    guest.write(line.encode() + b'\\n')
    while len(heard) < events:
        libvirt.virEventRunDefaultImpl()
print(heard)
";
    let uri = place.uri(&place.socket());
    let terminal = place.ok(&["ttyconsole", "guest"]);
    let program =
        program.replace("URI", &format!("'{uri}'")).replace("TERMINAL", &format!("'{}'", terminal.trim()));
    let said = python(&uri, &program);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(said.out.trim(), "[('guest', 1, 2), ('guest', 2, 2), ('guest', 1, 2)]");
    assert_eq!(shown(), "connected");
    // The next daemon knows as well.
    vireod.kill();
    let _vireod = place.start();
    assert_eq!(shown(), "connected");
    assert!(!place.ok(&["dumpxml", "guest", "--inactive"]).contains("state='"));
}
