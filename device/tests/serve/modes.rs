//! The same data by every way that a command line or a client can choose.

use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use vrnic_driver::Platform;
use vrnic_driver_vfio::Options;

use crate::endpoint::{Endpoint, KINDS, Retries, exchange, open, open_with, pair, transfer};
use crate::foreign::ForeignPlatform;
use crate::frames::{self, Frames};
use crate::process::{Nic, directory};

/// Around a path MTU of 4096 and its multiples.
const SIZES: [usize; 9] = [0, 1, 63, 4095, 4096, 4097, 8192, 33_333, 262_144];

/// All operations with all sizes in both directions.
#[track_caller]
fn all_sizes<A: Platform, B: Platform>(a: &mut Endpoint<A>, b: &mut Endpoint<B>) {
    let mut rng = SmallRng::seed_from_u64(3);
    for kind in KINDS {
        for size in SIZES {
            transfer(a, b, kind, size, &mut rng);
            transfer(b, a, kind, size, &mut rng);
        }
    }
}

/// Two functions of one process.
#[track_caller]
fn one_process(dir: &Path, arguments: &[&str], options: Options) -> Nic {
    let nic = Nic::start(dir, &["a", "b"], arguments);
    let a = open_with(nic.socket(0), 1, options);
    let b = open_with(nic.socket(1), 2, options);
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    all_sizes(&mut a, &mut b);
    nic
}

#[test]
fn directly_in_one_process() {
    let dir = directory();
    one_process(dir.path(), &[], Options::default()).stop();
}

#[test]
fn with_trapped_doorbells() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b"], &["--trap-doorbells"]);
    let a = open(nic.socket(0), 1);
    let b = open(nic.socket(1), 2);
    assert!(!a.platform().doorbells_mapped(), "the pages are offered");
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    all_sizes(&mut a, &mut b);
    nic.stop();
}

#[test]
fn with_a_client_that_does_not_map_doorbells() {
    let options = Options {
        map_doorbells: false,
        ..Options::default()
    };
    let dir = directory();
    one_process(dir.path(), &[], options).stop();
}

#[test]
fn with_memory_that_is_not_shared() {
    let options = Options {
        share_memory: false,
        ..Options::default()
    };
    let dir = directory();
    one_process(dir.path(), &[], options).stop();
}

#[test]
fn with_memory_shared_on_one_side_only() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b"], &[]);
    let options = Options {
        share_memory: false,
        map_doorbells: false,
        ..Options::default()
    };
    let a = open(nic.socket(0), 1);
    let b = open_with(nic.socket(1), 2, options);
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    all_sizes(&mut a, &mut b);
    nic.stop();
}

#[test]
fn within_one_function() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let driver = open(nic.socket(0), 1);
    // Without a link the port is up: there is somebody to talk to.
    let port = driver.query_port().unwrap();
    assert_eq!(port.state, vrnic_abi::object::PortState::Active.raw());
    let (mut a, mut b) = pair(&driver, &driver, Retries::Long);
    all_sizes(&mut a, &mut b);
    nic.stop();
}

#[test]
fn through_the_port_with_a_capture() {
    let dir = directory();
    let arguments = ["--no-direct", "--capture", "c.pcapng"];
    one_process(dir.path(), &arguments, Options::default()).stop();
    let Frames { frames, lost } = frames::read(&dir.path().join("c.pcapng"));
    let bytes: usize = frames.iter().map(Vec::len).sum();
    // Every byte of every kind and direction is in the frames once, or more often.
    let moved = SIZES.iter().sum::<usize>() * KINDS.len() * 2;
    assert!(
        bytes > moved || lost > 0,
        "{bytes} bytes of frames for {moved} of data"
    );
    assert!(!frames.is_empty());
    assert!(frames.iter().all(|frame| frames::is_roce(frame)));
}

/// Two processes on a link.
#[track_caller]
fn two_processes(dir: &Path, first: &str, second: &str) {
    let capture = ["--capture", "first.pcapng", "--link", first];
    let one = Nic::start(dir, &["a"], &capture);
    let two = Nic::start(dir, &["b"], &["--link", second]);
    let a = open(one.socket(0), 1);
    let b = crate::endpoint::probe(ForeignPlatform::open(two.socket(0)), 2);
    link_is_up(&a);
    link_is_up(&b);
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    all_sizes(&mut a, &mut b);
    let mut rng = SmallRng::seed_from_u64(4);
    for _ in 0..20 {
        exchange(&mut a, &mut b, &mut rng);
    }
    drop((a, b));
    one.stop();
    two.stop();
    let Frames { frames, lost } = frames::read(&dir.join("first.pcapng"));
    assert!(frames.len() as u64 + lost > 100 && frames.iter().all(|frame| frames::is_roce(frame)));
}

#[track_caller]
pub(crate) fn link_is_up<P: Platform>(driver: &Arc<vrnic_driver::Driver<P>>) {
    use vrnic_abi::object::PortState;
    crate::process::until("the link comes up", || {
        let state = driver.query_port().unwrap().state;
        (state == PortState::Active.raw()).then_some(())
    });
}

#[test]
fn over_shared_memory() {
    let dir = directory();
    two_processes(dir.path(), "shm:listen=l", "shm:connect=l");
}

#[test]
fn over_a_stream() {
    let dir = directory();
    two_processes(dir.path(), "stream:listen=l", "stream:connect=l");
}

#[test]
fn over_datagrams() {
    let dir = directory();
    let (one, two) = ("dgram:local=x,remote=y", "dgram:local=y,remote=x");
    two_processes(dir.path(), one, two);
}

#[test]
fn over_udp() {
    // Two ports that were free a moment ago.
    let sockets: Vec<_> = (0..2)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let ends: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
    drop(sockets);
    let dir = directory();
    let spec = |near, far| format!("udp:local={near},remote={far}");
    let (one, two) = (spec(ends[0], ends[1]), spec(ends[1], ends[0]));
    two_processes(dir.path(), &one, &two);
}
