//! Regions that are registered again (IBTA volume 1, 10.6): other rights, another protection domain
//! or other memory under the same key.

use crate::world::*;
use std::mem::offset_of;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Buffer, ReregisterMr, Status, WindowType};

/// What makes the region `key` what [`World::region`] makes.
fn same(world: &World, key: u32, access: AccessFlags) -> ReregisterMr {
    ReregisterMr {
        pd: world.owner.pd,
        access: access.bits(),
        start: world.place(),
        length: PLACE,
        buffer: Buffer {
            address: world.place(),
            pages: (PLACE / PAGE) as u32,
            page_shift: 12,
            ..Buffer::default()
        },
        key,
        ..ReregisterMr::default()
    }
}

/// What the command says, and about which argument.
#[track_caller]
fn again(world: &mut World, body: &ReregisterMr) -> (Status, usize) {
    let driver = &mut world.owner.driver;
    let completion = driver.command(&mut world.bench, AdminOpcode::ReregisterMr, body);
    let status = Status::from_raw(completion.status).expect("a known status");
    (status, (completion.syndrome as usize).saturating_sub(8))
}

const DONE: (Status, usize) = (Status::Success, 0);

#[test]
fn rights_come_and_go_under_the_same_key() {
    for direct in [true, false] {
        let mut world = World::new(direct);
        let place = world.place();
        let key = world.region(world.owner.pd, AccessFlags::LOCAL_WRITE);
        let (none, all) = (
            same(&world, key, AccessFlags::LOCAL_WRITE),
            same(&world, key, ALL),
        );
        let mut expected = world.memory();
        for round in 1..4u8 {
            assert_eq!(world.write(0, (place, key), &[round]), Wc::RemoteAccess);
            assert!(world.memory() == expected);
            world.reconnect(0);
            assert_eq!(again(&mut world, &all), DONE);
            assert_eq!(world.query(key).access, ALL.bits());
            assert_eq!(world.write(0, (place, key), &[round]), Wc::Success);
            expected[0] = round;
            assert!(world.memory() == expected);
            assert_eq!(again(&mut world, &none), DONE);
        }
    }
}

#[test]
fn memory_changes_with_contiguous_and_with_listed_pages() {
    let mut world = World::new(true);
    let key = world.region(world.owner.pd, ALL);
    let pages = [5, 1].map(|page| world.place() + page * PAGE);
    let buffer = Buffer {
        address: world.list(&pages),
        pages: 2,
        page_shift: 12,
        list: 1,
        ..Buffer::default()
    };
    let moved = ReregisterMr {
        start: 0x7000_0000,
        length: 2 * PAGE,
        buffer,
        ..same(&world, key, ALL)
    };
    let back = same(&world, key, ALL);
    for round in 1..4u8 {
        assert_eq!(again(&mut world, &moved), DONE);
        let query = world.query(key);
        assert_eq!((query.start, query.length), (0x7000_0000, 2 * PAGE));
        let mut expected = world.memory();
        let target = (0x7000_0000 + PAGE - 2, key);
        assert_eq!(world.write(0, target, &[round; 4]), Wc::Success);
        expected[6 * 4096 - 2..6 * 4096].fill(round);
        expected[4096..4096 + 2].fill(round);
        assert!(world.memory() == expected);
        // What it was is no part of it any more.
        let old = (world.place(), key);
        assert_eq!(world.write(0, old, &[9]), Wc::RemoteAccess);
        world.reconnect(0);
        assert_eq!(again(&mut world, &back), DONE);
        assert_eq!(world.write(0, old, &[round]), Wc::Success);
    }
    let destroyed = world.destroy(AdminOpcode::DestroyMr, key);
    assert_eq!(destroyed, Status::Success);
}

#[test]
fn a_protection_domain_is_left_for_another() {
    let mut world = World::new(true);
    let (first, second) = (world.pd(), world.pd());
    let key = world.region(first, ALL);
    let mut body = same(&world, key, ALL);
    for (pd, other) in [(second, first), (first, second)] {
        body.pd = pd;
        assert_eq!(again(&mut world, &body), DONE);
        assert_eq!(world.query(key).pd, pd);
        assert_eq!(world.destroy(AdminOpcode::FreePd, pd), Status::Busy);
        assert_eq!(world.destroy(AdminOpcode::FreePd, other), Status::Success);
        if other == first {
            assert_eq!(world.pd(), first, "the only number that was freed");
        }
    }
    // The connections are of another domain, until the region is as well.
    let place = world.place();
    assert_eq!(world.write(0, (place, key), &[1]), Wc::RemoteAccess);
    world.reconnect(0);
    body.pd = world.owner.pd;
    assert_eq!(again(&mut world, &body), DONE);
    assert_eq!(world.write(0, (place, key), &[2]), Wc::Success);
    assert_eq!(world.memory()[0], 2);
}

/// What is wrong with a command, its status and the argument that it names.
type Refused = (Status, usize, fn(&mut ReregisterMr));

const REFUSED: [Refused; 6] = [
    (Status::NoSuchObject, offset_of!(ReregisterMr, pd), |body| {
        body.pd = 99;
    }),
    (Status::BadArgument, offset_of!(ReregisterMr, access), |b| {
        b.access = AccessFlags::REMOTE_WRITE.bits();
    }),
    (Status::Unsupported, offset_of!(ReregisterMr, access), |b| {
        b.access = AccessFlags::FLUSH_PERSISTENT.bits();
    }),
    (Status::BadArgument, offset_of!(ReregisterMr, length), |b| {
        b.length = 0;
    }),
    (Status::BadArgument, offset_of!(ReregisterMr, length), |b| {
        (b.start, b.length) = (u64::MAX - 4095, 8192);
    }),
    (Status::BadArgument, offset_of!(ReregisterMr, buffer), |b| {
        b.buffer = Buffer::default();
    }),
];

#[test]
fn what_cannot_be_leaves_the_region_as_it_was() {
    let mut world = World::new(true);
    let access = ALL | AccessFlags::WINDOW_BIND;
    let key = world.region(world.owner.pd, access);
    let fast = world.fast_region(world.owner.pd, 1);
    let window = world.window(world.owner.pd, WindowType::Type1);
    let before = world.query(key);
    let good = same(&world, key, AccessFlags::LOCAL_WRITE);
    let at_key = offset_of!(ReregisterMr, key);
    for key in [0, fast, window, variant(key, 9), u32::MAX] {
        let refused = again(&mut world, &ReregisterMr { key, ..good });
        assert_eq!(refused, (Status::NoSuchObject, at_key), "{key:#x}");
    }
    for (status, at, change) in REFUSED {
        let mut body = good;
        change(&mut body);
        let (got, near) = again(&mut world, &body);
        assert_eq!(got, status, "{body:?}");
        assert!((at..at + 16).contains(&near), "{body:?}: {near:#x}");
    }
    assert_eq!(world.query(key), before);
    let segment = world.binding(window, variant(window, 2), key);
    assert_eq!(world.bind(0, &segment), Wc::Success);
    assert_eq!(again(&mut world, &good), (Status::Busy, at_key));
    let target = (segment.start, segment.key);
    assert_eq!(world.write(0, target, &[7]), Wc::Success);
    assert_eq!(world.memory()[4096], 7);
}
