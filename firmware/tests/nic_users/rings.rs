//! Rings that their owner fills with anything at any time.
//!
//! What a user without privileges must not reach is filled with a secret: no byte of it may change,
//! and none may turn up in the user's own memory.

use std::rc::Rc;

use bytemuck::bytes_of;
use vrnic_abi::admin::AccessFlags;
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::QpState;
use vrnic_abi::wqe::{
    BASIC_BLOCK, BindSegment, ControlSegment, DataSegment, FastRegisterSegment, RESERVED_LKEY,
    RemoteSegment, SegmentationSegment, WqeFlags, WqeOpcode,
};
use vrnic_firmware::host::Memory;

use crate::nic_bench::{Hardware, Random, control, data};
use crate::user::{ROOM, User, World};

const SECRET: [u8; 16] = *b"not for you, 42!";
/// Bytes of the secret.
const LENGTH: u64 = 8192;

/// Memory full of the secret, which no key of the user covers.
fn hide(world: &mut World) -> u64 {
    let at = world.driver.memory(LENGTH, false);
    let bytes = SECRET.repeat(LENGTH as usize / SECRET.len());
    world.driver.hw.ram.write(at, &bytes).unwrap();
    at
}

#[track_caller]
fn assert_hidden(hw: &Hardware, secret: u64, users: &[&User], what: &str) {
    let bytes = hw.bytes(secret, LENGTH as usize);
    assert!(
        bytes.chunks(16).all(|chunk| chunk == SECRET),
        "written: {what}"
    );
    for user in users {
        let bytes = hw.bytes(user.memory, ROOM as usize);
        let found = bytes.windows(8).any(|window| *window == SECRET[4..12]);
        assert!(!found, "read: {what}");
    }
}

/// A request: how it is called, what it is, its immediate data, and the segments after the first.
type Request = (&'static str, WqeOpcode, u32, Vec<u8>);

/// Requests for data that go to or come from `secret`, or memory of another user.
fn forbidden_data(good: &User, own: &User, peer: &User, secret: u64) -> Vec<Request> {
    let reserved = data(secret, 64, RESERVED_LKEY);
    let (others, own) = (good.segment(0, 64), own.segment(0, 64));
    let send = |what, list: DataSegment| (what, WqeOpcode::Send, 0, bytes_of(&list).to_vec());
    let with = |what, opcode, (address, rkey): (u64, u32), list: DataSegment| {
        let remote = RemoteSegment {
            address,
            rkey,
            reserved: 0,
        };
        let rest = [bytes_of(&remote), bytes_of(&list)].concat();
        (what, opcode, 0, rest)
    };
    let (read, write) = (WqeOpcode::Read, WqeOpcode::Write);
    let there = (peer.memory, peer.key);
    let hidden = (secret, RESERVED_LKEY);
    let good = (good.memory, good.key);
    vec![
        send("SEND from the reserved key", reserved),
        send("SEND from another's key", others),
        with("READ into the reserved key", read, there, reserved),
        with("WRITE from the reserved key", write, there, reserved),
        with("READ into another's key", read, there, others),
        with("WRITE from another's key", write, there, others),
        with("WRITE to the reserved key", write, hidden, own),
        with("READ from the reserved key", read, hidden, own),
        with("WRITE to another's key", write, good, own),
        with("READ from another's key", read, good, own),
    ]
}

/// Requests that change keys, or send what is no message.
fn forbidden_operations(good: &User, own: &User, secret: u64) -> Vec<Request> {
    let register = FastRegisterSegment {
        key: own.key,
        access: AccessFlags::LOCAL_WRITE.bits(),
        start: secret,
        length: LENGTH,
        list: secret,
        pages: 2,
        page_shift: 12,
        ..FastRegisterSegment::default()
    };
    let bind = BindSegment {
        window: good.key,
        key: good.key + 1,
        region: good.key,
        access: AccessFlags::REMOTE_READ.bits(),
        start: good.memory,
        length: 64,
        ..BindSegment::default()
    };
    let cut = SegmentationSegment {
        mss: 100,
        header_length: 54,
        ..SegmentationSegment::default()
    };
    let frame = [bytes_of(&cut), bytes_of(&own.segment(0, 64))].concat();
    let (register, bind) = (bytes_of(&register).to_vec(), bytes_of(&bind).to_vec());
    vec![
        ("fast registration", WqeOpcode::FastRegister, 0, register),
        ("bind of another's region", WqeOpcode::BindWindow, 0, bind),
        (
            "invalidation of another's key",
            WqeOpcode::LocalInvalidate,
            good.key,
            vec![],
        ),
        ("a frame", WqeOpcode::SendSegmented, 0, frame),
    ]
}

/// Data segments of a request.
const fn data_segments(opcode: WqeOpcode) -> usize {
    match opcode {
        WqeOpcode::FastRegister | WqeOpcode::BindWindow | WqeOpcode::LocalInvalidate => 0,
        _ => 1,
    }
}

#[test]
fn privileged_operations_are_refused() {
    let mut world = World::new();
    let secret = hide(&mut world);
    let (mut bad, mut peer) = (world.user(), world.user());
    world.join(bad.qp.number, peer.qp.number);
    let hw = Rc::clone(&world.driver.hw);
    let mut requests = forbidden_data(&world.good[0], &bad, &peer, secret);
    requests.extend(forbidden_operations(&world.good[0], &bad, secret));
    for (what, opcode, immediate, rest) in requests {
        peer.qp.receive(&hw, &[peer.segment(0, 64)]);
        let control = control(opcode, immediate, data_segments(opcode));
        bad.qp.post(&hw, control, &[&rest]);
        world.bench.run();
        let entry = bad.poll(&hw).expect(what);
        assert_ne!(entry.status, 0, "{what}");
        assert_ne!(entry.status, CompletionStatus::Flushed.raw(), "{what}");
        assert_eq!(world.state(bad.qp.number), QpState::Error, "{what}");
        assert_hidden(&hw, secret, &[&bad, &peer], what);
        world.restart(&mut bad.qp, peer.qp.number);
        world.restart(&mut peer.qp, bad.qp.number);
        while bad.poll(&hw).is_some() || peer.poll(&hw).is_some() {}
        world.message(&mut Random(1), |_| {});
    }
    // A receive request is no better than a send request.
    peer.qp.receive(&hw, &[data(secret, 64, RESERVED_LKEY)]);
    bad.qp.send(&hw, WqeOpcode::Send, 0, &[bad.segment(0, 64)]);
    world.bench.run();
    assert_ne!(peer.poll(&hw).unwrap().status, 0);
    assert_hidden(&hw, secret, &[&bad, &peer], "receive");
}

/// A user that fills its own rings, and rings for them, as it likes.
struct Hostile {
    user: User,
    /// Memory that it has heard of, and its key.
    places: Vec<(u64, u32)>,
    random: Random,
}

impl Hostile {
    fn new(world: &mut World, random: &mut Random) -> Self {
        Self {
            user: world.user(),
            places: Vec::new(),
            random: Random(random.next()),
        }
    }

    /// A place and its key, mostly.
    fn place(&mut self) -> (u64, u32) {
        let Self { random, places, .. } = self;
        let count = places.len() as u64;
        let (address, key) = places[random.below(count) as usize];
        let address = address + random.below(5000);
        let other = places[random.below(count) as usize].1;
        (address, if random.percent(80) { key } else { other })
    }

    fn segment(&mut self) -> DataSegment {
        let (address, key) = self.place();
        data(address, self.random.below(3000) as u32, key)
    }

    fn remote(&mut self) -> RemoteSegment {
        let (address, rkey) = self.place();
        RemoteSegment {
            address,
            rkey,
            reserved: 0,
        }
    }

    /// A request that looks good at first sight.
    fn request(&mut self) -> [u8; BASIC_BLOCK] {
        let usual = [WqeOpcode::Send, WqeOpcode::Write, WqeOpcode::Read];
        let opcodes = match self.random.percent(75) {
            true => &usual[..],
            false => WqeOpcode::ALL,
        };
        let opcode = opcodes[self.random.below(opcodes.len() as u64) as usize];
        let (segment, remote) = (self.segment(), self.remote());
        let (pieces, data_segments): (Vec<&[u8]>, u8) = match opcode {
            WqeOpcode::Send | WqeOpcode::SendImmediate | WqeOpcode::SendInvalidate => {
                (vec![bytes_of(&segment)], 1)
            }
            WqeOpcode::Write | WqeOpcode::WriteImmediate | WqeOpcode::Read => {
                (vec![bytes_of(&remote), bytes_of(&segment)], 1)
            }
            WqeOpcode::CompareSwap | WqeOpcode::FetchAdd => {
                let list = vec![bytes_of(&remote), bytes_of(&remote), bytes_of(&segment)];
                (list, 1)
            }
            _ => (
                vec![bytes_of(&remote), bytes_of(&segment), bytes_of(&segment)],
                0,
            ),
        };
        let control = ControlSegment {
            opcode: opcode.raw(),
            flags: (self.random.next() as u8 & 6) | WqeFlags::SIGNALED.bits(),
            segments: 1 + pieces.len() as u8,
            data_segments,
            immediate: self.place().1,
            index: self.user.qp.posted,
            ..ControlSegment::default()
        };
        let mut bytes = [0; BASIC_BLOCK];
        let mut request = [bytes_of(&control), &pieces.concat()].concat();
        request.resize(BASIC_BLOCK, 0);
        bytes.copy_from_slice(&request);
        if self.random.percent(15) {
            let at = self.random.below(BASIC_BLOCK as u64) as usize;
            bytes[at] = self.random.next() as u8;
        }
        bytes
    }

    fn act(&mut self, hw: &Hardware) {
        let place = self.random.below(64) * BASIC_BLOCK as u64;
        match self.random.below(20) {
            0..=9 => self.post(hw),
            10..=15 => {
                let list = [self.segment(), self.segment()];
                self.user.qp.receive(hw, &list);
            }
            16 => self.noise(hw, self.user.qp.send_page + place),
            17 => self.noise(hw, self.user.qp.receive_page + place),
            _ => self.noise(hw, self.user.cq.base + place),
        }
    }

    fn post(&mut self, hw: &Hardware) {
        let bytes = self.request();
        let qp = &mut self.user.qp;
        let at = u64::from(qp.posted % 64) * BASIC_BLOCK as u64;
        hw.ram.write(qp.send_page + at, &bytes).unwrap();
        // Some take blocks that nothing was written to.
        let blocks = if self.random.percent(90) { 1 } else { 3 };
        qp.posted = qp.posted.wrapping_add(blocks);
        qp.ring(hw);
    }

    fn noise(&mut self, hw: &Hardware, at: u64) {
        let mut bytes = [0; BASIC_BLOCK];
        self.random.fill(&mut bytes);
        hw.ram.write(at, &bytes).unwrap();
    }
}

/// Two hostile users that are connected to each other.
fn hostile_pair(world: &mut World, random: &mut Random, secret: u64) -> [Hostile; 2] {
    let mut both = [0, 1].map(|_| Hostile::new(world, random));
    let place = |user: &User| (user.memory, user.key);
    let [one, two] = [place(&both[0].user), place(&both[1].user)];
    let good = place(&world.good[0]);
    for hostile in &mut both {
        // Their own more often, so that something works.
        hostile.places = [one, two].repeat(6);
        let others = [good, (secret, RESERVED_LKEY), (secret, one.1)];
        hostile.places.extend(others);
    }
    world.join(both[0].user.qp.number, both[1].user.qp.number);
    both
}

#[test]
fn users_that_scribble_hurt_only_themselves() {
    const WANTED: [Counter; 5] = [
        Counter::ReqCqeError,
        Counter::RxSendRequests,
        Counter::RxWriteRequests,
        Counter::RxReadRequests,
        Counter::RespRemoteAccessErrors,
    ];
    let mut sums = [0; WANTED.len()];
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = World::new();
        let secret = hide(&mut world);
        let mut both = hostile_pair(&mut world, &mut random, secret);
        let [a, b] = [0, 1].map(|n: usize| both[n].user.qp.number);
        for round in 0..400 {
            for _ in 0..4 {
                both.iter_mut().for_each(|one| one.act(&world.driver.hw));
                if random.percent(60) {
                    world.bench.step();
                }
            }
            world.bench.now.0 += random.below(10_000_000);
            // They can go on for as long as their completion queues have room.
            both.iter().for_each(|one| world.consume(&one.user.cq));
            if round % 8 == 0 {
                world.message(&mut random, |hw| {
                    both.iter_mut().for_each(|one| one.act(hw));
                });
            }
            let users = [&both[0].user, &both[1].user];
            assert_hidden(&world.driver.hw, secret, &users, "by chance");
            // The kernel gives them another try.
            if [a, b].iter().any(|qp| world.state(*qp) == QpState::Error) {
                let [one, two] = &mut both;
                world.restart(&mut one.user.qp, b);
                world.restart(&mut two.user.qp, a);
            }
        }
        for (sum, counter) in sums.iter_mut().zip(WANTED) {
            *sum += world.counter(counter);
        }
        let good = [0, 1].map(|n: usize| world.good[n].qp.number);
        assert_eq!(good.map(|qp| world.state(qp)), [QpState::Rts; 2]);
        world.assert_well();
    }
    // Some requests were carried out, and some were refused.
    assert!(sums.iter().all(|sum| *sum > 100), "{sums:?}");
}
