//! Memory windows (IBTA volume 1, 10.6.7).

use crate::world::*;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, AllocMw, Status, WindowType};
use vrnic_abi::object::{DeviceAttributes, KeyType, QpState};
use vrnic_abi::registers as reg;
use vrnic_abi::wqe::{BindSegment, WqeOpcode};

const BIND: AccessFlags = AccessFlags::WINDOW_BIND.union(AccessFlags::LOCAL_WRITE);

/// A window of the type that is bound by queue pair 0, and its region.
fn bound(world: &mut World, kind: WindowType) -> (BindSegment, u32) {
    let region = world.region(world.owner.pd, BIND);
    let window = world.window(world.owner.pd, kind);
    let segment = world.binding(window, variant(window, 2), region);
    assert_eq!(world.bind(0, &segment), Wc::Success);
    (segment, segment.key)
}

#[test]
fn peers_reach_the_window_and_not_the_region() {
    for (direct, kind) in [
        (true, WindowType::Type1),
        (true, WindowType::Type2),
        (false, WindowType::Type1),
        (false, WindowType::Type2),
    ] {
        let mut world = World::new(direct);
        let (segment, key) = bound(&mut world, kind);
        let mut expected = world.memory();
        let bytes: Vec<u8> = (1..=255).chain([0]).collect();
        assert_eq!(world.write(0, (segment.start, key), &bytes), Wc::Success);
        expected[4096..4352].copy_from_slice(&bytes);
        assert!(world.memory() == expected);
        let read = world.read(0, (segment.start, key), 256);
        assert_eq!(read, (Wc::Success, bytes));
        let outside = [
            (segment.start - 1, 1, key),
            (segment.start + 256, 1, key),
            (segment.start - 1, 257, key),
            (segment.start + 1, 256, key),
            (0, 1, key),
            // The region has no remote rights of its own.
            (segment.start, 1, segment.region),
            // The key of before.
            (segment.start, 1, segment.window),
        ];
        for (address, length, key) in outside {
            let status = world.write(1, (address, key), &vec![9; length]);
            assert_eq!(status, Wc::RemoteAccess, "{address:#x} {length}");
            assert!(world.memory() == expected);
            world.reconnect(1);
        }
    }
}

#[test]
fn rights_are_those_of_the_window() {
    for (flags, write, read) in [
        (AccessFlags::REMOTE_WRITE, Wc::Success, Wc::RemoteAccess),
        (AccessFlags::REMOTE_READ, Wc::RemoteAccess, Wc::Success),
        (AccessFlags::empty(), Wc::RemoteAccess, Wc::RemoteAccess),
    ] {
        let mut world = World::new(true);
        let region = world.region(world.owner.pd, ALL | BIND);
        let window = world.window(world.owner.pd, WindowType::Type1);
        let mut segment = world.binding(window, variant(window, 2), region);
        segment.access = flags.bits();
        assert_eq!(world.bind(0, &segment), Wc::Success);
        let target = (segment.start, segment.key);
        assert_eq!(world.write(0, target, &[1]), write);
        assert_eq!(world.read(1, target, 1).0, read);
    }
}

/// Addresses that count from the start of a window can be aligned where memory is not.
#[test]
fn what_is_misaligned_in_memory_is_not_changed_at_once() {
    for opcode in [WqeOpcode::AtomicWrite, WqeOpcode::FetchAdd] {
        let mut world = World::new(true);
        let region = world.region(world.owner.pd, BIND);
        let window = world.window(world.owner.pd, WindowType::Type2);
        let access =
            AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_ATOMIC | AccessFlags::ZERO_BASED;
        let mut segment = world.binding(window, variant(window, 2), region);
        (segment.access, segment.start) = (access.bits(), segment.start + 4);
        assert_eq!(world.bind(0, &segment), Wc::Success);
        let before = world.memory();
        assert_eq!(
            world.atomic(0, opcode, (8, segment.key)),
            Wc::RemoteOperation
        );
        assert!(world.memory() == before);
    }
}

#[test]
fn atomics_go_through_a_window() {
    let mut world = World::new(true);
    let region = world.region(world.owner.pd, BIND);
    let window = world.window(world.owner.pd, WindowType::Type2);
    let mut segment = world.binding(window, variant(window, 2), region);
    segment.access = AccessFlags::REMOTE_ATOMIC.bits();
    assert_eq!(world.bind(0, &segment), Wc::Success);
    world.store(segment.start + 8, &5u64.to_le_bytes());
    let remote = vrnic_abi::wqe::RemoteSegment {
        address: segment.start + 8,
        rkey: segment.key,
        reserved: 0,
    };
    let add = vrnic_abi::wqe::AtomicSegment {
        swap_or_add: 3,
        compare: 0,
    };
    let result = world.user.segment(0, 8);
    let parts = [
        bytemuck::bytes_of(&remote),
        bytemuck::bytes_of(&add),
        bytemuck::bytes_of(&result),
    ];
    let hw = &world.user.driver.hw;
    world.users[0].post(hw, control(WqeOpcode::FetchAdd, 0, 1), &parts);
    world.settle();
    assert_eq!(world.user.poll().unwrap().status, Wc::Success.raw());
    assert_eq!(world.hw().bytes(segment.start + 8, 8), 8u64.to_le_bytes());
    assert_eq!(
        world.write(0, (segment.start, segment.key), &[1]),
        Wc::RemoteAccess
    );
}

#[test]
fn a_window_is_no_local_key() {
    let mut world = World::new(true);
    let (segment, key) = bound(&mut world, WindowType::Type1);
    let target = (world.user.memory, world.user.key);
    for opcode in [WqeOpcode::Write, WqeOpcode::Read] {
        let list = [data(segment.start, 8, key)];
        world.owners[0].rdma(&world.owner.driver.hw, opcode, target, &list);
        world.settle();
        let status = world.owner.poll().unwrap().status;
        assert_eq!(status, Wc::LocalProtection.raw());
        world.reconnect(0);
    }
}

#[test]
fn addresses_from_zero() {
    let mut world = World::new(true);
    let region = world.region(world.owner.pd, BIND);
    let window = world.window(world.owner.pd, WindowType::Type2);
    let mut segment = world.binding(window, variant(window, 2), region);
    segment.access |= AccessFlags::ZERO_BASED.bits();
    assert_eq!(world.bind(0, &segment), Wc::Success);
    assert_eq!(world.write(0, (255, segment.key), &[6]), Wc::Success);
    let memory = world.memory();
    assert_eq!(memory[4096 + 254..4096 + 257], [PATTERN, 6, PATTERN]);
    assert_eq!(world.write(0, (256, segment.key), &[6]), Wc::RemoteAccess);
}

mod type_1 {
    use super::*;

    #[test]
    fn binds_again_and_unbinds() {
        let mut world = World::new(true);
        let (first, old) = bound(&mut world, WindowType::Type1);
        let mut second = BindSegment {
            window: old,
            key: variant(old, 3),
            start: first.start + 128,
            ..first
        };
        assert_eq!(world.bind(1, &second), Wc::Success);
        assert_eq!(
            world.write(0, (second.start, second.key), &[1]),
            Wc::Success
        );
        assert_eq!(world.write(0, (second.start, old), &[2]), Wc::RemoteAccess);
        assert_eq!(
            world.destroy(AdminOpcode::DestroyMr, first.region),
            Status::Busy
        );
        world.reconnect(0);

        (second.window, second.key) = (second.key, variant(old, 4));
        (second.length, second.region) = (0, 0);
        assert_eq!(world.bind(0, &second), Wc::Success);
        let query = world.query(second.key);
        assert_eq!((query.valid, query.region, query.length), (0, 0, 0));
        for key in [second.window, second.key] {
            assert_eq!(world.write(0, (second.start, key), &[3]), Wc::RemoteAccess);
            world.reconnect(0);
        }
        assert_eq!(world.memory()[4096 + 128], 1);
        let destroyed = world.destroy(AdminOpcode::DestroyMr, first.region);
        assert_eq!(destroyed, Status::Success);
    }

    #[test]
    fn serves_all_queue_pairs_and_outlives_the_one_that_bound_it() {
        let mut world = World::new(true);
        let (segment, key) = bound(&mut world, WindowType::Type1);
        assert_eq!(world.write(1, (segment.start, key), &[4]), Wc::Success);
        world.reconnect(0);
        assert_eq!(world.query(key).valid, 1);
        assert_eq!(world.write(1, (segment.start + 1, key), &[5]), Wc::Success);
        assert_eq!(world.memory()[4096..4098], [4, 5]);
    }

    #[test]
    fn moves_between_regions() {
        let mut world = World::new(true);
        let (first, old) = bound(&mut world, WindowType::Type1);
        let other = world.region(world.owner.pd, BIND);
        let second = BindSegment {
            window: old,
            key: variant(old, 3),
            region: other,
            ..first
        };
        assert_eq!(world.bind(0, &second), Wc::Success);
        let destroyed = world.destroy(AdminOpcode::DestroyMr, first.region);
        assert_eq!(destroyed, Status::Success);
        assert_eq!(world.destroy(AdminOpcode::DestroyMr, other), Status::Busy);
        assert_eq!(world.write(0, (first.start, second.key), &[1]), Wc::Success);
    }
}

mod type_2 {
    use super::*;

    #[test]
    fn serves_its_queue_pair_only() {
        for direct in [true, false] {
            let mut world = World::new(direct);
            let (segment, key) = bound(&mut world, WindowType::Type2);
            let before = world.memory();
            assert_eq!(world.write(1, (segment.start, key), &[4]), Wc::RemoteAccess);
            assert!(world.memory() == before);
            assert_eq!(world.write(0, (segment.start, key), &[4]), Wc::Success);
        }
    }

    #[test]
    fn is_invalidated_and_bound_again() {
        let mut world = World::new(true);
        let (mut segment, key) = bound(&mut world, WindowType::Type2);
        let (sent, received) = world.send_invalidate(0, key);
        assert_eq!((sent, received.immediate), (Wc::Success, key));
        assert_eq!(world.query(key).valid, 0);
        // Free, it may go to another queue pair, even under the same key.
        segment.window = key;
        assert_eq!(world.bind(1, &segment), Wc::Success);
        assert_eq!(world.query(key).qp, world.owners[1].number);
        assert_eq!(world.write(1, (segment.start, key), &[4]), Wc::Success);
        assert_eq!(world.invalidate(1, key), Wc::Success);
        assert_eq!(world.write(1, (segment.start, key), &[5]), Wc::RemoteAccess);
        assert_eq!(world.memory()[4096], 4);
        let destroyed = world.destroy(AdminOpcode::DestroyMr, segment.region);
        assert_eq!(destroyed, Status::Success);
    }

    #[test]
    fn ends_with_a_reset_of_its_queue_pair_but_not_with_an_error() {
        let mut world = World::new(true);
        let (segment, key) = bound(&mut world, WindowType::Type2);
        let qp = world.owners[0].number;
        world
            .owner
            .driver
            .set_state(&mut world.bench, qp, QpState::Error);
        assert_eq!(world.query(key).valid, 1);
        assert_eq!(
            world.destroy(AdminOpcode::DestroyMr, segment.region),
            Status::Busy
        );
        world.reconnect(0);
        let query = world.query(key);
        assert_eq!((query.valid, query.qp, query.region), (0, 0, 0));
        assert_eq!(world.write(0, (segment.start, key), &[5]), Wc::RemoteAccess);
        let destroyed = world.destroy(AdminOpcode::DestroyMr, segment.region);
        assert_eq!(destroyed, Status::Success);
    }

    /// Windows of one queue pair, some of which are gone when it is destroyed, and one of another.
    #[test]
    fn ends_with_its_queue_pair() {
        let mut world = World::new(true);
        let region = world.region(world.owner.pd, BIND);
        let mut keys = Vec::new();
        for n in 0..8 {
            let window = world.window(world.owner.pd, WindowType::Type2);
            let segment = world.binding(window, variant(window, 2), region);
            let qp = usize::from(n == 7);
            assert_eq!(world.bind(qp, &segment), Wc::Success);
            keys.push(segment.key);
        }
        // The ends and the middle of the list.
        for gone in [0, 3, 6] {
            let freed = world.destroy(AdminOpcode::FreeMw, keys[gone]);
            assert_eq!(freed, Status::Success);
        }
        let qp = world.owners[0].number;
        assert_eq!(world.destroy(AdminOpcode::DestroyQp, qp), Status::Success);
        for bound in [1, 2, 4, 5] {
            assert_eq!(world.query(keys[bound]).valid, 0);
        }
        let other = world.query(keys[7]);
        assert_eq!((other.valid, other.qp), (1, world.owners[1].number));
        assert_eq!(world.destroy(AdminOpcode::DestroyMr, region), Status::Busy);
        assert_eq!(world.invalidate(1, keys[7]), Wc::Success);
        let destroyed = world.destroy(AdminOpcode::DestroyMr, region);
        assert_eq!(destroyed, Status::Success);
    }
}

#[test]
fn a_window_over_a_fast_registration_keeps_it() {
    let mut world = World::new(true);
    let first = world.fast_region(world.owner.pd, 4);
    let mut registration = world.registration(variant(first, 2), &[6, 3]);
    registration.access = BIND.bits();
    assert_eq!(world.register(0, &registration), Wc::Success);
    let window = world.window(world.owner.pd, WindowType::Type2);
    let segment = BindSegment {
        start: registration.start + 4080 - 4,
        length: 8,
        ..world.binding(window, variant(window, 2), registration.key)
    };
    assert_eq!(world.bind(0, &segment), Wc::Success);
    assert_eq!(
        world.write(0, (segment.start, segment.key), &[1; 8]),
        Wc::Success
    );
    let mut expected = vec![PATTERN; PLACE as usize];
    expected[7 * 4096 - 4..7 * 4096].fill(1);
    expected[3 * 4096..3 * 4096 + 4].fill(1);
    assert!(world.memory() == expected);

    assert_eq!(world.invalidate(1, registration.key), Wc::LocalProtection);
    world.reconnect(1);
    let (sent, _) = world.send_invalidate(1, registration.key);
    assert_eq!(sent, Wc::RemoteAccess);
    let destroyed = world.destroy(AdminOpcode::DestroyMr, registration.key);
    assert_eq!(destroyed, Status::Busy);
    assert_eq!(world.invalidate(0, segment.key), Wc::Success);
    assert_eq!(world.invalidate(0, registration.key), Wc::Success);
}

#[test]
fn what_a_query_says() {
    let mut world = World::new(true);
    for (kind, key_type) in [
        (WindowType::Type1, KeyType::Window1),
        (WindowType::Type2, KeyType::Window2),
    ] {
        let (segment, key) = bound(&mut world, kind);
        let query = world.query(key);
        assert_eq!((query.key, query.pd), (key, world.owner.pd));
        assert_eq!((query.key_type, query.valid), (key_type.raw(), 1));
        assert_eq!((query.start, query.length), (segment.start, 256));
        assert_eq!(
            (query.access, query.region),
            (segment.access, segment.region)
        );
        let qp = match kind {
            WindowType::Type1 => 0,
            WindowType::Type2 => world.owners[0].number,
        };
        assert_eq!((query.qp, query.max_pages, query.page_shift), (qp, 0, 0));
    }
    let query = world.query(world.owner.key);
    assert_eq!((query.key_type, query.valid), (KeyType::Region.raw(), 1));
}

#[test]
fn the_function_says_what_it_can() {
    let mut world = World::new(true);
    let capabilities = world.hw().register(&reg::CAPABILITIES);
    assert_eq!(capabilities >> 7 & 3, 3);
    let address = world.owner.driver.memory(256, false);
    let output = vrnic_abi::admin::OutputBuffer {
        address,
        length: 256,
        reserved: 0,
    };
    let driver = &mut world.owner.driver;
    driver.ok(&mut world.bench, AdminOpcode::QueryDevice, &output);
    let device: DeviceAttributes = world.hw().read(address);
    assert_eq!((device.max_mw, device.max_fast_pages), (65_536, 1024));
}

/// All windows that there can be, each bound, and then their queue pair goes.
#[test]
fn as_many_as_there_can_be() {
    let mut world = World::new(true);
    let region = world.region(world.owner.pd, BIND);
    let body = AllocMw {
        pd: world.owner.pd,
        window_type: WindowType::Type2.raw(),
        ..AllocMw::default()
    };
    let mut last = 0;
    for _ in 0..65_536 {
        let driver = &mut world.owner.driver;
        last = driver.ok(&mut world.bench, AdminOpcode::AllocMw, &body) as u32;
        let segment = world.binding(last, last, region);
        assert_eq!(world.bind(0, &segment), Wc::Success);
    }
    let driver = &mut world.owner.driver;
    let refused = driver.command(&mut world.bench, AdminOpcode::AllocMw, &body);
    assert_eq!(refused.status, Status::NoResources.raw());
    assert_eq!(world.query(last).valid, 1);
    let qp = world.owners[0].number;
    assert_eq!(world.destroy(AdminOpcode::DestroyQp, qp), Status::Success);
    assert_eq!(world.query(last).valid, 0);
    let destroyed = world.destroy(AdminOpcode::DestroyMr, region);
    assert_eq!(destroyed, Status::Success);
}
