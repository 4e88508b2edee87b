//! The real agent, and agents that nobody would want.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libvirt_xml::Uuid;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::commands::base64;
use super::{AgentError, GuestAgents, LONGEST_ANSWER, Patience, ShutdownMode};

const DOMAIN: Uuid = Uuid([7; 16]);

/// An agent that answers each connection as told. `answer` gets commands and says what is written, or `None` for nothing more.
struct Fake {
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn start(mut answer: impl FnMut(&Value) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &mut answer).await;
            }
        });
        Self { socket, _directory: directory }
    }

    /// Synchronizes as it should, and answers everything else with `answer`.
    fn answering(mut answer: impl FnMut(&Value) -> Option<Vec<u8>> + Send + 'static) -> Self {
        Self::start(move |request| match request["execute"].as_str() {
            Some("guest-sync-delimited") => Some(synchronized(&request["arguments"]["id"])),
            _ => answer(request),
        })
    }
}

async fn serve(stream: UnixStream, answer: &mut impl FnMut(&Value) -> Option<Vec<u8>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let request = serde_json::from_slice(line.strip_prefix(b"\xFF").unwrap_or(&line)).unwrap();
        match answer(&request) {
            Some(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            None => return,
        }
    }
}

fn synchronized(id: &Value) -> Vec<u8> {
    [b"\xFF", format!("{}\n", json!({ "return": id })).as_bytes()].concat()
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

const SHORT: Patience = Patience::For(Duration::from_millis(200));

#[tokio::test]
async fn what_was_left_of_others_is_not_taken_for_an_answer() {
    let fake = Fake::start(|request| match request["execute"].as_str() {
        Some("guest-sync-delimited") => {
            let mut bytes =
                b"{\"return\": \"of another\"}\n\xFF{\"return\": 1}\n{\"half\xFF\n\xFFrubbish\n".to_vec();
            bytes.extend(synchronized(&request["arguments"]["id"]));
            Some(bytes)
        }
        _ => Some(b"\n{\"return\": {}}\n".to_vec()),
    });
    let agents = GuestAgents::default();
    let agent = agents.agent(DOMAIN, &fake.socket).await.unwrap();
    agent.ping().await.unwrap();
    let answer = agent.command(r#"{"execute":"guest-ping"}"#, SHORT).await.unwrap();
    assert_eq!(answer.as_deref(), Some(r#"{"return": {}}"#));
    drop(agent);
    assert!(agents.0.lock().is_empty());
}

#[tokio::test]
async fn an_agent_that_hangs_is_given_up_and_delays_no_other() {
    let dead = tempfile::tempdir().unwrap();
    let socket = dead.path().join("agent");
    let _never_answers = StdListener::bind(&socket).unwrap();
    let hangs = Fake::answering(|_| Some(Vec::new()));
    let good = Fake::answering(|_| Some(line(&json!({ "return": {} }))));
    let agents = GuestAgents::default();
    let command = r#"{"execute":"guest-ping"}"#;
    let agent = agents.agent(DOMAIN, &socket).await.unwrap();
    let other = agents.agent(Uuid([8; 16]), &good.socket).await.unwrap();
    let (given_up, pinged) = tokio::join!(agent.command(command, SHORT), other.ping());
    assert!(matches!(given_up.unwrap_err(), AgentError::Silent));
    pinged.unwrap();
    drop(agent);
    let agent = agents.agent(DOMAIN, &hangs.socket).await.unwrap();
    let error = agent.command(command, SHORT).await.unwrap_err();
    assert!(matches!(&error, AgentError::Hung { command, .. } if command == "guest-ping"), "{error}");
    assert_eq!(agent.command(command, Patience::NoAnswer).await.unwrap(), None);
    drop(agent);
    let agent = agents.agent(DOMAIN, &dead.path().join("nothing")).await.unwrap();
    let error = agent.ping().await.unwrap_err();
    assert_eq!(error.to_string(), "QEMU guest agent is not connected");
}

#[tokio::test]
async fn commands_to_one_agent_wait_for_each_other() {
    let fake = Fake::answering(|_| Some(line(&json!({ "return": {} }))));
    let agents = GuestAgents::default();
    let first = agents.agent(DOMAIN, &fake.socket).await.unwrap();
    let second = agents.agent(DOMAIN, &fake.socket);
    tokio::pin!(second);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
    drop(first);
    second.await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let floods = vec![b'x'; LONGEST_ANSWER + (64 << 10)];
    let deep = [vec![b'['; 100_000], b"\n".to_vec()].concat();
    for answer in [
        b"rubbish\n".to_vec(),
        b"{\"return\": \"\xC0\xC0\"}\n".to_vec(),
        b"[]\n".to_vec(),
        b"{\"event\": 1}\n".to_vec(),
        deep,
        floods,
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(8)]).into_owned();
        let fake = Fake::answering(move |_| Some(answer.clone()));
        let agents = GuestAgents::default();
        let agent = agents.agent(DOMAIN, &fake.socket).await.unwrap();
        let error = agent.host_name().await.unwrap_err();
        assert!(matches!(error, AgentError::Senseless { .. }), "{shown}: {error}");
    }
    // The right form with the wrong content.
    let fake = Fake::answering(|_| Some(line(&json!({ "return": [{ "name": 5 }] }))));
    let agents = GuestAgents::default();
    let agent = agents.agent(DOMAIN, &fake.socket).await.unwrap();
    assert!(matches!(agent.interfaces().await.unwrap_err(), AgentError::Senseless { .. }));
    assert!(matches!(agent.freeze(&[]).await.unwrap_err(), AgentError::Senseless { .. }));
}

#[tokio::test]
async fn a_flood_before_the_answer_ends_in_time_and_a_broken_connection_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let flooding = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
    });
    let agents = GuestAgents::default();
    let agent = agents.agent(DOMAIN, &socket).await.unwrap();
    let error = agent.command(r#"{"execute":"guest-ping"}"#, SHORT).await.unwrap_err();
    assert!(matches!(error, AgentError::Silent), "{error}");
    let error = agent.ping().await.unwrap_err();
    assert!(matches!(error, AgentError::NotConnected(_)), "{error}");
    flooding.await.unwrap();
    let leaves = Fake::answering(|_| None);
    drop(agent);
    let agent = agents.agent(DOMAIN, &leaves.socket).await.unwrap();
    assert!(matches!(agent.ping().await.unwrap_err(), AgentError::Gone(_)));
    // That is what a guest that ends looks like.
    agent.shut_down(ShutdownMode::PowerDown).await.unwrap();
}

#[tokio::test]
async fn commands_say_what_the_agent_expects() {
    let (asked, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::answering(move |request| {
        asked.send(request.clone()).unwrap();
        Some(line(&match request["execute"].as_str().unwrap() {
            "guest-shutdown" => json!({ "error": { "class": "GenericError", "desc": "not now" } }),
            "guest-fsfreeze-freeze-list" => json!({ "return": 2 }),
            "guest-fstrim" => json!({ "return": { "paths": [{ "path": "/", "error": "no" }] } }),
            "guest-set-time" => json!({ "error": { "class": "CommandDisabled", "desc": "off" } }),
            _ => json!({ "return": {} }),
        }))
    });
    let agents = GuestAgents::default();
    let agent = agents.agent(DOMAIN, &fake.socket).await.unwrap();
    let error = agent.shut_down(ShutdownMode::Reboot).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to execute QEMU agent command 'guest-shutdown': not now");
    assert_eq!(agent.freeze(&["/a".into(), "/b".into()]).await.unwrap(), 2);
    let error = agent.trim(4096).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to execute QEMU agent command 'guest-fstrim': /: no");
    let error = agent.set_time(Some(5)).await.unwrap_err();
    assert!(matches!(error, AgentError::Refused { unsupported: true, .. }), "{error}");
    agent.set_time(None).await.unwrap_err();
    agent.set_password("root", "geheim", true).await.unwrap();
    let mut expected = |value: Value| assert_eq!(seen.try_recv().unwrap(), value);
    expected(json!({ "execute": "guest-shutdown", "arguments": { "mode": "reboot" } }));
    expected(
        json!({ "execute": "guest-fsfreeze-freeze-list", "arguments": { "mountpoints": ["/a", "/b"] } }),
    );
    expected(json!({ "execute": "guest-fstrim", "arguments": { "minimum": 4096 } }));
    expected(json!({ "execute": "guest-set-time", "arguments": { "time": 5 } }));
    expected(json!({ "execute": "guest-set-time" }));
    expected(json!({ "execute": "guest-set-user-password",
        "arguments": { "username": "root", "password": "Z2VoZWlt", "crypted": true } }));
    for bad in ["", "{", "[]", "{}", r#"{"execute":5}"#] {
        assert!(matches!(agent.command(bad, SHORT).await.unwrap_err(), AgentError::Command(_)), "{bad}");
    }
    seen.try_recv().unwrap_err();
}

/// QEMU's own agent. It runs on this machine: what would change anything is forbidden to it.
struct RealAgent {
    process: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl RealAgent {
    const FORBIDDEN: &'static str = "guest-shutdown,guest-set-time,guest-suspend-disk,guest-suspend-ram,\
        guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,guest-fstrim,\
        guest-set-user-password,guest-exec,guest-set-vcpus,guest-set-memory-blocks,guest-file-open,\
        guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys";

    /// The agent, and the one connection that it takes.
    fn start() -> Option<(Self, UnixStream)> {
        let program =
            ["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"].iter().find(|path| Path::new(path).exists())?;
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let process = Command::new(program)
            .args(["-m", "unix-listen", "-p"])
            .arg(&socket)
            .arg("-t")
            .arg(directory.path())
            .args(["-b", Self::FORBIDDEN])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut agent = Self { process, socket, _directory: directory };
        let start = Instant::now();
        loop {
            assert!(agent.process.try_wait().unwrap().is_none(), "qemu-ga has ended");
            assert!(start.elapsed() < Duration::from_secs(20), "qemu-ga does not listen");
            if let Ok(connection) = std::os::unix::net::UnixStream::connect(&agent.socket) {
                connection.set_nonblocking(true).unwrap();
                return Some((agent, UnixStream::from_std(connection).unwrap()));
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Between the agent and its clients, as a machine is: the agent's connection stays while clients come and go.
async fn bridge(listener: UnixListener, agent: UnixStream) {
    let (mut from_agent, mut to_agent) = agent.into_split();
    while let Ok((client, _)) = listener.accept().await {
        let (mut from_client, mut to_client) = client.into_split();
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_agent) => {}
            _ = tokio::io::copy(&mut from_agent, &mut to_client) => {}
        }
    }
}

#[tokio::test]
async fn the_real_agent_is_understood() {
    let Some((real, connection)) = RealAgent::start() else {
        eprintln!("skipped: there is no qemu-ga (tools/install-dependencies)");
        return;
    };
    let socket = real.socket.with_extension("clients");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(bridge(listener, connection));
    let agents = GuestAgents::default();
    let agent = agents.agent(DOMAIN, &socket).await.unwrap();
    agent.ping().await.unwrap();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(agent.host_name().await.unwrap(), name.trim());
    let loopback =
        agent.interfaces().await.unwrap().into_iter().find(|interface| interface.name == "lo").unwrap();
    let address = loopback.ip_addresses.iter().find(|address| address.ip_address_type == "ipv4").unwrap();
    assert_eq!((address.ip_address.as_str(), address.prefix), ("127.0.0.1", 8));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seconds = i128::from(agent.time().await.unwrap() / 1_000_000_000);
    assert!((i128::from(now.as_secs()) - seconds).abs() < 60);
    let system = agent.operating_system().await.unwrap();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(system.kernel_release.as_deref(), Some(release.trim()));
    agent.time_zone().await.unwrap();
    agent.users().await.unwrap();
    // What it finds of disks depends on where this runs; that it is understood does not.
    for outcome in [agent.file_systems().await.map(drop), agent.disks().await.map(drop)] {
        assert!(!matches!(outcome, Err(AgentError::Senseless { .. })), "{outcome:?}");
    }
    // Half a command of somebody else, and an answer that nobody fetched.
    let mut other = UnixStream::connect(&socket).await.unwrap();
    other.write_all(b"{\"execute\":\"guest-ping\"}\n{\"execute\": \"gue").await.unwrap();
    drop(other);
    let long = Patience::For(Duration::from_secs(20));
    let answer = agent.command(r#"{"execute":"guest-ping"}"#, long).await.unwrap();
    assert_eq!(answer.as_deref(), Some(r#"{"return": {}}"#));
    let error = agent.command(r#"{"execute":"guest-nonsense"}"#, long).await.unwrap_err();
    assert!(matches!(error, AgentError::Refused { unsupported: true, .. }), "{error}");
    let error = agent.freeze(&[]).await.unwrap_err();
    assert!(matches!(error, AgentError::Refused { unsupported: true, .. }), "{error}");
}

#[test]
fn patience_is_as_libvirt_says() {
    let seconds = |seconds| Some(Patience::For(Duration::from_secs(seconds)));
    assert_eq!(Patience::of_libvirt(-1), seconds(5));
    assert_eq!(Patience::of_libvirt(0), Some(Patience::NoAnswer));
    assert_eq!(Patience::of_libvirt(7), seconds(7));
    assert_eq!(Patience::of_libvirt(-2), seconds(3600));
    assert_eq!(Patience::of_libvirt(i32::MAX), seconds(3600));
    assert_eq!(Patience::of_libvirt(-3), None);
}

#[test]
fn base64_is_that_of_the_rfc() {
    // RFC 4648, section 10.
    for (plain, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
    ] {
        assert_eq!(base64(plain.as_bytes()), text);
    }
    assert_eq!(base64(&[0xFF, 0xFE, 0xFD]), "//79");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_an_agent_says_is_an_answer_or_an_error(noise in any::<Vec<u8>>(), answer in any::<Vec<u8>>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::start(move |request| match request["execute"].as_str() {
                Some("guest-sync-delimited") => {
                    let noise: Vec<u8> = noise.iter().copied().filter(|byte| *byte != 0xFF).collect();
                    Some([noise, synchronized(&request["arguments"]["id"])].concat())
                }
                _ => Some([answer.as_slice(), b"\n"].concat()),
            });
            let agents = GuestAgents::default();
            let agent = agents.agent(DOMAIN, &fake.socket).await.unwrap();
            let asked = agent.command(r#"{"execute":"x"}"#, Patience::For(Duration::from_millis(20))).await;
            assert!(!matches!(asked, Err(AgentError::Silent | AgentError::NotConnected(_))));
        });
    }
}
