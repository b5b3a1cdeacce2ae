//! Fast registration and its end (IBTA volume 1, 10.6.6).

use crate::world::*;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Status};
use vrnic_abi::cqe::CompletionOpcode;
use vrnic_abi::object::KeyType;
use vrnic_abi::wqe::{FastRegisterSegment, WqeOpcode};

/// A registered region, of pages 9 and 5 of the place, and its key.
fn registered(world: &mut World) -> (FastRegisterSegment, u32) {
    let first = world.fast_region(world.owner.pd, 4);
    let segment = world.registration(variant(first, 2), &[9, 5]);
    assert_eq!(world.register(0, &segment), Wc::Success);
    (segment, segment.key)
}

#[test]
fn data_lands_in_the_listed_pages_and_nowhere_else() {
    for direct in [true, false] {
        let mut world = World::new(direct);
        let (segment, key) = registered(&mut world);
        let mut expected = world.memory();
        // Across the border of the two pages.
        let bytes: Vec<u8> = (0..64).collect();
        let address = segment.start + 4080 - 20;
        assert_eq!(world.write(0, (address, key), &bytes), Wc::Success);
        expected[10 * 4096 - 20..10 * 4096].copy_from_slice(&bytes[..20]);
        expected[5 * 4096..5 * 4096 + 44].copy_from_slice(&bytes[20..]);
        assert!(world.memory() == expected);
        assert_eq!(world.read(1, (address, key), 64), (Wc::Success, bytes));
    }
}

#[test]
fn the_whole_range_is_reached_and_no_byte_more() {
    let mut world = World::new(true);
    let (segment, key) = registered(&mut world);
    let (first, end) = (segment.start, segment.start + segment.length);
    assert_eq!(world.write(0, (first, key), &[1]), Wc::Success);
    assert_eq!(world.write(0, (end - 1, key), &[2]), Wc::Success);
    let expected = world.memory();
    assert_eq!(expected[9 * 4096 + 15..9 * 4096 + 17], [PATTERN, 1]);
    assert_eq!(expected[6 * 4096 - 17..6 * 4096 - 15], [2, PATTERN]);
    for (address, length) in [(first - 1, 1), (end, 1), (first - 1, 64), (end - 63, 64)] {
        let bytes = vec![3; length];
        assert_eq!(world.write(0, (address, key), &bytes), Wc::RemoteAccess);
        assert!(world.memory() == expected);
        world.reconnect(0);
    }
}

#[test]
fn the_list_may_change_once_it_was_read() {
    let mut world = World::new(true);
    let (segment, key) = registered(&mut world);
    world.store(segment.list, &[0xff; 16]);
    assert_eq!(world.write(0, (segment.start, key), &[7]), Wc::Success);
    assert_eq!(world.memory()[9 * 4096 + 16], 7);
}

#[test]
fn a_region_is_used_by_requests_behind_its_registration() {
    let mut world = World::new(true);
    let first = world.fast_region(world.owner.pd, 4);
    let segment = world.registration(variant(first, 7), &[3]);
    world.store(world.place() + 3 * PAGE + 16, b"registered");
    let hw = &world.owner.driver.hw;
    let register = control(WqeOpcode::FastRegister, 0, 0);
    world.owners[0].post(hw, register, &[bytemuck::bytes_of(&segment)]);
    let target = (world.user.memory + 5000, world.user.key);
    let list = [data(segment.start, 10, segment.key)];
    world.owners[0].rdma(hw, WqeOpcode::Write, target, &list);
    let invalidate = control(WqeOpcode::LocalInvalidate, segment.key, 0);
    world.owners[0].post(hw, invalidate, &[]);
    world.settle();
    for _ in 0..3 {
        assert_eq!(world.owner.poll().unwrap().status, Wc::Success.raw());
    }
    assert_eq!(world.user.hw().bytes(target.0, 10), b"registered");
    assert_eq!(world.query(segment.key).valid, 0);
}

#[test]
fn free_and_valid_again_under_another_key() {
    let mut world = World::new(true);
    let (mut segment, old) = registered(&mut world);
    assert_eq!(world.invalidate(0, old), Wc::Success);
    assert_eq!(world.write(1, (segment.start, old), &[1]), Wc::RemoteAccess);
    world.reconnect(1);
    segment = world.registration(variant(old, 3), &[2]);
    assert_eq!(world.register(1, &segment), Wc::Success);
    for (key, status) in [(segment.key, Wc::Success), (old, Wc::RemoteAccess)] {
        assert_eq!(world.write(1, (segment.start, key), &[5]), status);
    }
    let memory = world.memory();
    let touched: Vec<usize> = (0..memory.len())
        .filter(|&n| memory[n] != PATTERN)
        .collect();
    assert_eq!(touched, [2 * 4096 + 16]);
}

#[test]
fn the_peer_invalidates() {
    for direct in [true, false] {
        let mut world = World::new(direct);
        let (segment, key) = registered(&mut world);
        let (sent, received) = world.send_invalidate(1, key);
        assert_eq!((sent, received.status), (Wc::Success, Wc::Success.raw()));
        let opcode = CompletionOpcode::ReceiveInvalidate.raw();
        assert_eq!((received.opcode, received.immediate), (opcode, key));
        assert_eq!(world.query(key).valid, 0);
        let before = world.memory();
        assert_eq!(world.write(0, (segment.start, key), &[1]), Wc::RemoteAccess);
        assert!(world.memory() == before);
    }
}

/// A READ that is being answered ends where the invalidation finds it: what came before is right,
/// the rest is not touched.
#[test]
fn an_invalidation_ends_a_read() {
    const LENGTH: usize = 1 << 20;
    let mut world = World::new(false);
    let first = world.fast_region(world.owner.pd, 1024);
    // The same page again and again.
    let segment = world.registration(variant(first, 2), &[3; 257]);
    assert_eq!(world.register(0, &segment), Wc::Success);
    world.store(world.place() + 3 * PAGE, &[0x33; PAGE as usize]);
    let list = [world.user.segment(0, LENGTH as u32)];
    let hw = &world.user.driver.hw;
    let source = (segment.start, segment.key);
    world.users[0].rdma(hw, WqeOpcode::Read, source, &list);
    world.bench.step();
    world.bench.step();
    let invalidate = control(WqeOpcode::LocalInvalidate, segment.key, 0);
    world.owners[1].post(&world.owner.driver.hw, invalidate, &[]);
    world.settle();
    assert_eq!(world.owner.poll().unwrap().status, Wc::Success.raw());
    let read = world.user.poll().expect("the READ ends");
    assert_eq!(read.status, Wc::RemoteAccess.raw());
    let bytes = world.user.hw().bytes(world.user.memory, LENGTH);
    let placed = bytes.iter().take_while(|byte| **byte == 0x33).count();
    assert!(placed > 0 && placed < LENGTH, "{placed}");
    assert!(bytes[placed..].iter().all(|byte| *byte == PATTERN));
}

#[test]
fn what_a_query_says() {
    let mut world = World::new(true);
    let first = world.fast_region(world.owner.pd, 4);
    let free = world.query(first);
    assert_eq!((free.key, free.pd), (first, world.owner.pd));
    assert_eq!((free.key_type, free.valid), (KeyType::FastRegion.raw(), 0));
    assert_eq!((free.max_pages, free.length, free.access), (4, 0, 0));
    let mut segment = world.registration(variant(first, 9), &[1]);
    let flags = AccessFlags::REMOTE_READ
        | AccessFlags::WINDOW_BIND
        | AccessFlags::ZERO_BASED
        | AccessFlags::RELAXED_ORDERING
        | AccessFlags::FLUSH_GLOBAL;
    segment.access = flags.bits();
    assert_eq!(world.register(0, &segment), Wc::Success);
    let valid = world.query(segment.key);
    assert_eq!(
        (valid.key, valid.valid, valid.max_pages),
        (segment.key, 1, 4)
    );
    assert_eq!((valid.start, valid.length), (segment.start, segment.length));
    assert_eq!((valid.access, valid.page_shift), (flags.bits(), 12));
    assert_eq!(
        world.destroy(AdminOpcode::QueryMr, first),
        Status::NoSuchObject
    );
}

#[test]
fn its_page_list_is_paid_for_when_it_is_allocated() {
    let mut world = World::new(true);
    let entries = |world: &World| {
        let function = world.bench.nic.function(world.owner.driver.id).unwrap();
        function.objects.page_entries
    };
    let before = entries(&world);
    let first = world.fast_region(world.owner.pd, 100);
    assert_eq!(entries(&world), before + 100);
    let segment = world.registration(variant(first, 2), &[1, 2, 3]);
    assert_eq!(world.register(0, &segment), Wc::Success);
    assert_eq!(entries(&world), before + 100);
    assert_eq!(
        world.destroy(AdminOpcode::FreePd, world.owner.pd),
        Status::Busy
    );
    let destroyed = world.destroy(AdminOpcode::DestroyMr, segment.key);
    assert_eq!((destroyed, entries(&world)), (Status::Success, before));
    let read = world.read(0, (segment.start, segment.key), 1);
    assert_eq!(read, (Wc::RemoteAccess, vec![PATTERN]));
}

#[test]
fn zero_based_addresses_are_offsets() {
    let mut world = World::new(true);
    let first = world.fast_region(world.owner.pd, 4);
    let mut segment = world.registration(variant(first, 2), &[4]);
    segment.access |= AccessFlags::ZERO_BASED.bits();
    assert_eq!(world.register(0, &segment), Wc::Success);
    assert_eq!(world.write(0, (3, segment.key), &[8]), Wc::Success);
    assert_eq!(world.memory()[4 * 4096 + 16 + 3], 8);
}
