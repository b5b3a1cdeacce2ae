//! A physical function and as many virtual ones as there can be, each with a client: 257 at once, in
//! this process.
//!
//! Each function takes the initiative towards another one by chance, and all pairs have something
//! under way at the same time. `VRNIC_SEED` repeats a run. What so many cost while they do nothing is
//! a row of `cargo xtask bench`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rustix::process::{Resource, getrlimit, setrlimit};
use vrnic_abi::registers::{self, function};
use vrnic_driver::{Driver, Platform};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::endpoint::{Endpoint, KINDS, Retries, Transfer, pair, probe_at};
use crate::hostile::seeded;
use crate::process::{Nic, directory};

/// What the device takes at most.
const VFS: u16 = 256;
/// Transfers of each pair.
const ROUNDS: usize = 4;
/// Longest of them: several packets.
const LONGEST: usize = 40_000;

type Pair = (Endpoint<HostPlatform>, Endpoint<HostPlatform>);

#[test]
fn two_hundred_and_fifty_six_vfs_move_data_between_random_pairs() {
    raise_file_limit();
    let dir = directory();
    let nic = Nic::start_family(dir.path(), VFS, &[]);
    let mut rng = seeded();
    let functions: Vec<_> = (0..=VFS).map(|number| attach(&nic, number)).collect();
    let mut pairs = random_pairs(&functions, &mut rng);
    for _ in 0..ROUNDS {
        move_data(&mut pairs, &mut rng);
    }
    for (number, driver) in (0..).zip(&functions) {
        let register = registers::FUNCTION.offset;
        let register = driver.platform().read_register(register);
        assert_eq!(function::NUMBER.get(register), number);
    }
    for (a, b) in &pairs {
        a.assert_good();
        b.assert_good();
    }
    nic.stop();
}

/// A client of function `number`, with an address made of that.
#[track_caller]
fn attach(nic: &Nic, number: u16) -> Arc<Driver<HostPlatform>> {
    let options = Options {
        vectors: 2,
        ..Options::default()
    };
    let platform = HostPlatform::open_socket(nic.socket(number.into()), options).unwrap();
    let [high, low] = number.to_be_bytes();
    probe_at(platform, Ipv4Addr::new(10, 9, high + 1, low))
}

/// Each function with one that chance has chosen, which may be the same.
#[track_caller]
fn random_pairs(functions: &[Arc<Driver<HostPlatform>>], rng: &mut SmallRng) -> Vec<Pair> {
    let connect = |function| {
        let peer = &functions[rng.random_range(0..functions.len())];
        pair(function, peer, Retries::Long)
    };
    functions.iter().map(connect).collect()
}

/// A transfer of each pair, all at once, by WRITE, READ or SEND, in one direction or the other.
#[track_caller]
fn move_data(pairs: &mut [Pair], rng: &mut SmallRng) {
    let mut started = Vec::with_capacity(pairs.len());
    for (a, b) in &mut *pairs {
        let kind = KINDS[rng.random_range(0..KINDS.len())];
        let length = rng.random_range(1..LONGEST);
        let forth: bool = rng.random();
        let (from, to) = if forth { (a, b) } else { (b, a) };
        started.push((forth, Transfer::start(from, to, kind, length, rng)));
    }
    for ((a, b), (forth, transfer)) in pairs.iter_mut().zip(started) {
        let (from, to) = if forth { (a, b) } else { (b, a) };
        transfer.finish(from, to);
    }
}

/// Each client has a few files, and other tests run beside this one. If the limit stays low, opening
/// one too many tells.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
