//! Deaths and resets under traffic: of a client, a function, the process, the link's peer.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::PortState;
use vrnic_abi::registers::{self, device_status};
use vrnic_driver::{DmaBuffer, Driver, Health, Platform};
use vrnic_driver_vfio::HostPlatform;

use crate::endpoint::{
    Endpoint, Identity, Retries, configure, connect, exchange, open, pair, probe,
};
use crate::foreign::ForeignPlatform;
use crate::modes::link_is_up;
use crate::process::{Nic, PATIENCE, directory, until};
use crate::traffic::{End, Pump, Shuttle};

const NO_ANSWER: End = End::Failed(CompletionStatus::RetryExceeded);

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(6)
}

// --- death of a client

const CHILD_SOCKET: &str = "VRNIC_SERVE_TEST_SOCKET";

/// Not a test: the process that a test kills. WRITEs to its parent's memory without end.
#[test]
#[ignore = "run by a_killed_client_is_replaced"]
fn child_that_is_killed() {
    let Some(socket) = std::env::var_os(CHILD_SOCKET) else {
        return;
    };
    let mut endpoint = Endpoint::new(&open(Path::new(&socket), 1));
    println!("\nidentity {}", endpoint.identity().text());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    endpoint.connect(&Identity::parse(&line), Retries::Long);
    let pump = Pump::start(endpoint);
    pump.flows();
    println!("flows");
    pump.ends();
}

/// The child, and its output.
#[track_caller]
fn spawn_child(socket: &Path) -> (Child, impl FnMut(&str) -> String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::child_that_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(CHILD_SOCKET, socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let expect = move |word: &str| {
        let mut found = lines.by_ref().map(Result::unwrap);
        let found = found.find_map(|line| line.strip_prefix(word).map(str::to_owned));
        found.expect("the child ended")
    };
    (child, expect)
}

#[test]
fn a_killed_client_is_replaced() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b", "c", "d"], &[]);
    let b = open(nic.socket(1), 2);
    let (c, d) = (open(nic.socket(2), 3), open(nic.socket(3), 4));
    let shuttle = Shuttle::start(pair(&c, &d, Retries::Long));
    let mut b = Endpoint::new(&b);
    for round in 0..3 {
        let (mut child, mut expect) = spawn_child(nic.socket(0));
        let theirs = Identity::parse(&expect("identity"));
        b.connect(&theirs, Retries::Short);
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", b.identity().text()).unwrap();
        expect("flows");
        let pump = Pump::start(b);
        pump.flows();
        child.kill().unwrap();
        let (ours, end) = pump.ends();
        assert_eq!(end, NO_ANSWER, "round {round}");
        ours.assert_good();
        child.wait().unwrap();
        b = ours;
        // Its place is free, and its peer's queue pair is as good as new.
        let mut a = Endpoint::new(&open(nic.socket(0), 1));
        connect(&mut a, &mut b, Retries::Long);
        drain(&mut b);
        exchange(&mut a, &mut b, &mut rng());
    }
    shuttle.stop();
    nic.stop();
}

/// Drops the completions of before.
pub(crate) fn drain<P: Platform>(endpoint: &mut Endpoint<P>) {
    while endpoint.wait_or(|| true).unwrap().is_some() {}
}

// --- resets under traffic

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    VfioUser,
    FunctionLevel,
    Register,
}

fn status<P: Platform>(driver: &Driver<P>) -> u32 {
    let platform = driver.platform();
    platform.read_register(registers::DEVICE_STATUS.offset)
}

/// Offset of the PCI Express capability (ID 0x10).
#[track_caller]
fn express(platform: &HostPlatform) -> u64 {
    let byte = |at: u64| {
        let mut data = [0];
        platform.read_config(at, &mut data).unwrap();
        data[0]
    };
    let mut at = byte(0x34).into();
    while at != 0 && byte(at) != 0x10 {
        at = byte(at + 1).into();
    }
    assert_ne!(at, 0, "no PCI Express capability");
    at
}

/// Resets the function behind its driver's back; when this returns, the reset is done.
#[track_caller]
pub(crate) fn reset(driver: &Driver<HostPlatform>, how: Reset) {
    let before = device_status::RESET_COUNT.get(status(driver));
    let platform = driver.platform();
    match how {
        Reset::VfioUser => assert!(platform.reset_function()),
        Reset::FunctionLevel => {
            // Device Control (PCI Express 6.0, 7.5.3.4), bit 15.
            let control = express(platform) + 8;
            platform.write_config(control, &[0, 0x80]).unwrap();
        }
        Reset::Register => {
            let (at, value) = (registers::RESET.offset, registers::RESET_VALUE);
            platform.write_register(at, value);
        }
    }
    until("the reset is counted", || {
        let count = device_status::RESET_COUNT.get(status(driver));
        (count != before).then_some(())
    });
}

#[test]
fn every_reset_works_under_traffic() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b", "c", "d"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (c, d) = (open(nic.socket(2), 3), open(nic.socket(3), 4));
    let shuttle = Shuttle::start(pair(&c, &d, Retries::Long));
    let mut far = Endpoint::new(&b);
    for how in [Reset::VfioUser, Reset::FunctionLevel, Reset::Register] {
        let mut near = Endpoint::new(&a);
        connect(&mut near, &mut far, Retries::Short);
        drain(&mut far);
        let memory = std::sync::Arc::clone(&near.memory);
        let (to, from) = (Pump::start(near), Pump::start(far));
        to.flows();
        from.flows();
        reset(&a, how);
        // Nothing of before is in flight any more, although the peer goes on.
        let quiet = vec![0x3c; memory.len()];
        memory.write(0, &quiet);
        let (ours, end) = from.ends();
        assert_eq!(end, NO_ANSWER, "{how:?}");
        let mut now = vec![0; memory.len()];
        memory.read(0, &mut now);
        assert!(now == quiet, "{how:?}: written to after the reset");
        ours.assert_good();
        far = ours;
        assert_eq!(to.stop().1, End::Stopped, "{how:?}");
        shuttle.moves();
        if how == Reset::FunctionLevel {
            assert!(matches!(a.health(), Health::Failed(_)));
            // It cleared bus mastering; the platform sets it.
            assert!(a.platform().reset_function());
        }
        a.recover().unwrap();
        configure(&a, 1);
        let mut near = Endpoint::new(&a);
        connect(&mut near, &mut far, Retries::Long);
        drain(&mut far);
        exchange(&mut near, &mut far, &mut rng());
    }
    shuttle.stop();
    nic.stop();
}

// --- memory that goes away

#[test]
fn unmapping_under_traffic_hurts_one_queue_pair() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b", "c", "d"], &[]);
    let (c, d) = (open(nic.socket(2), 3), open(nic.socket(3), 4));
    let shuttle = Shuttle::start(pair(&c, &d, Retries::Long));
    let b = open(nic.socket(1), 2);
    let a = probe(ForeignPlatform::open(nic.socket(0)), 1);
    let mut other = pair(&a, &b, Retries::Long);
    // As the requester, as the responder to WRITEs, and both at once.
    for (sends, receives) in [(true, false), (false, true), (true, true)] {
        let (near, far) = pair(&a, &b, Retries::Short);
        let memory = std::sync::Arc::clone(&near.memory);
        let quiet = vec![0x3c; memory.len()];
        let (mut near, mut far) = (Some(near), Some(far));
        let to = near.take_if(|_| sends).map(Pump::start);
        let from = far.take_if(|_| receives).map(Pump::start);
        to.iter().for_each(Pump::flows);
        from.iter().for_each(Pump::flows);
        let (iova, size) = (memory.0.iova, memory.len() as u64);
        a.platform().client().dma_unmap(iova, size).unwrap();
        memory.write(0, &quiet);
        let to = to.map(|pump| pump.ends().1);
        let from = from.map(|pump| pump.ends().1);
        match (to, from) {
            (Some(end), None) => {
                assert_eq!(end, End::Failed(CompletionStatus::LocalProtection));
            }
            (None, Some(end)) => {
                assert_eq!(end, End::Failed(CompletionStatus::RemoteOperation));
            }
            ends => {
                let failed = |end| matches!(end, Some(End::Failed(_)));
                assert!(failed(ends.0) && failed(ends.1), "{ends:?}");
            }
        }
        let mut now = vec![0; memory.len()];
        memory.read(0, &mut now);
        assert!(now == quiet, "written to after the unmap was answered");
        // Both functions and another queue pair between them are well.
        assert!(matches!(a.health(), Health::Good(_)));
        exchange(&mut other.0, &mut other.1, &mut rng());
        shuttle.moves();
    }
    shuttle.stop();
    nic.stop();
}

// --- death of the process

#[test]
fn a_killed_process_is_noticed_and_replaced() {
    let dir = directory();
    let mut nic = Nic::start(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (near, _far) = pair(&a, &b, Retries::Long);
    let pump = Pump::start(near);
    pump.flows();
    nic.kill();
    let (_near, end) = pump.stop();
    assert_eq!(end, End::Stopped);
    assert_eq!(a.health(), Health::Gone);
    assert!(a.create_pd().is_err());
    assert!(a.recover().is_err());
    // The sockets it left behind are replaced.
    let nic = Nic::start(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    exchange(&mut a, &mut b, &mut rng());
    nic.stop();
}

/// Waits until the driver is told of its port, by an interrupt.
#[track_caller]
fn port_event(driver: &Driver<HostPlatform>) -> EventType {
    let platform = driver.platform();
    let deadline = platform.now() + PATIENCE.as_nanos() as u64;
    loop {
        driver.handle_interrupt(0);
        let events = std::iter::from_fn(|| driver.poll_event());
        let mut events = events.map(|event| event.event);
        let port = [EventType::PortUp, EventType::PortDown];
        if let Some(event) = events.find(|event| port.contains(event)) {
            return event;
        }
        platform.relax(Some(0), deadline);
        assert!(platform.now() < deadline, "no interrupt");
    }
}

#[track_caller]
fn port_state(driver: &Driver<HostPlatform>) -> u8 {
    driver.query_port().unwrap().state
}

/// Kills and restarts first the calling, then the listening end.
#[track_caller]
fn link_peers_die(kind: &str) {
    let dir = directory();
    let specs = [format!("{kind}:listen=l"), format!("{kind}:connect=l")];
    let start = |name: &str, end: usize| Nic::start(dir.path(), &[name], &["--link", &specs[end]]);
    let mut nics = [start("a", 0), start("b", 1)];
    let mut drivers = [open(nics[0].socket(0), 1), open(nics[1].socket(0), 2)];
    for victim in [1, 0] {
        let survivor = 1 - victim;
        let (near, mut far) = pair(&drivers[survivor], &drivers[victim], Retries::Short);
        let pump = Pump::start(near);
        pump.flows();
        // What happened so far is known.
        while drivers[survivor].poll_event().is_some() {}
        nics[victim].kill();
        let (mut near, end) = pump.ends();
        assert_eq!(port_event(&drivers[survivor]), EventType::PortDown);
        assert_eq!(port_state(&drivers[survivor]), PortState::Down.raw());
        assert_eq!(end, NO_ANSWER);
        near.assert_good();
        assert!(far.wait_or(|| true).is_ok());
        let name = ["a", "b"][victim];
        nics[victim] = start(name, victim);
        assert_eq!(port_event(&drivers[survivor]), EventType::PortUp);
        assert_eq!(port_state(&drivers[survivor]), PortState::Active.raw());
        drivers[victim] = open(nics[victim].socket(0), 1 + victim as u8);
        link_is_up(&drivers[0]);
        link_is_up(&drivers[1]);
        let mut far = Endpoint::new(&drivers[victim]);
        connect(&mut near, &mut far, Retries::Long);
        drain(&mut near);
        exchange(&mut near, &mut far, &mut rng());
    }
    nics.into_iter().for_each(Nic::stop);
}

#[test]
fn a_peer_on_shared_memory_dies_and_comes_back() {
    link_peers_die("shm");
}

#[test]
fn a_peer_on_a_stream_dies_and_comes_back() {
    link_peers_die("stream");
}
