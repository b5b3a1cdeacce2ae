//! What must not work: how it ends, and that nothing has changed then.

use crate::world::*;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, AllocMr, AllocMw, Status, WindowType};
use vrnic_abi::wqe::{BindSegment, FastRegisterSegment};

const BIND: AccessFlags = AccessFlags::WINDOW_BIND.union(AccessFlags::LOCAL_WRITE);

mod fast_registration {
    use super::*;

    /// Changes a good registration of two pages, which must be refused then.
    type Change = fn(&mut FastRegisterSegment);

    const MALFORMED: [Change; 18] = [
        |s| s.access = AccessFlags::REMOTE_WRITE.bits(),
        |s| s.access = AccessFlags::REMOTE_ATOMIC.bits(),
        |s| s.access |= AccessFlags::FLUSH_PERSISTENT.bits(),
        |s| s.access |= 1 << 9,
        |s| s.length = 0,
        |s| s.length += 17,
        |s| s.length = u64::MAX,
        |s| s.start += 17,
        |s| s.start = u64::MAX - 100,
        |s| s.pages = 0,
        |s| s.pages = 1,
        |s| s.pages = 5,
        |s| s.pages = 1025,
        |s| s.pages = u32::MAX,
        |s| s.page_shift = 11,
        |s| s.page_shift = 31,
        |s| s.page_shift = 255,
        |s| s.list += 4,
    ];

    const WRONG_KEYS: [Change; 6] = [
        |s| s.key = 0,
        |s| s.key = u32::MAX,
        |s| s.key = 0xffff_ff00,
        |s| s.key += 256,
        |s| s.list = u64::MAX - 7,
        |s| s.list = 8,
    ];

    #[track_caller]
    fn refused(world: &mut World, first: u32, segment: &FastRegisterSegment, status: Wc) {
        let before = world.memory();
        assert_eq!(world.register(0, segment), status, "{segment:x?}");
        assert_eq!(
            (world.query(first).valid, world.query(first).key),
            (0, first)
        );
        assert!(world.memory() == before);
        world.reconnect(0);
    }

    #[test]
    fn of_what_makes_no_sense() {
        let mut world = World::new(true);
        let first = world.fast_region(world.owner.pd, 4);
        let good = world.registration(variant(first, 2), &[1, 2]);
        for (changes, status) in [
            (&MALFORMED[..], Wc::LocalQpOperation),
            (&WRONG_KEYS[..], Wc::LocalProtection),
        ] {
            for change in changes {
                let mut segment = good;
                change(&mut segment);
                refused(&mut world, first, &segment, status);
            }
        }
        assert_eq!(world.register(0, &good), Wc::Success);
    }

    #[test]
    fn of_pages_that_are_none() {
        let mut world = World::new(true);
        let first = world.fast_region(world.owner.pd, 4);
        let good = world.registration(variant(first, 2), &[1, 2]);
        for pages in [[0x1000, 0x1001], [u64::MAX, 0]] {
            world.list(&pages);
            refused(&mut world, first, &good, Wc::LocalQpOperation);
        }
        // Pages that are not mapped are pages; using them fails.
        world.list(&[0, u64::MAX - 0xfff]);
        assert_eq!(world.register(0, &good), Wc::Success);
        let status = world.write(0, (good.start, good.key), &[1]);
        assert_eq!(status, Wc::RemoteOperation);
    }

    #[test]
    fn on_a_queue_pair_that_is_not_privileged() {
        let mut world = World::new(true);
        let first = world.fast_region(world.owner.pd, 4);
        let segment = world.registration(variant(first, 2), &[1]);
        let (driver, cq) = (&mut world.owner.driver, &world.owner.cq);
        let plain = driver.qp(&mut world.bench, world.owner.pd, cq, cq);
        driver.connect(&mut world.bench, plain.number, 1, world.users[0].number);
        world.owners[0] = plain;
        assert_eq!(world.register(0, &segment), Wc::LocalQpOperation);
        assert_eq!(world.query(first).valid, 0);
    }

    #[test]
    fn of_a_region_that_is_not_free_or_not_theirs() {
        let mut world = World::new(true);
        let first = world.fast_region(world.owner.pd, 4);
        let mut segment = world.registration(variant(first, 2), &[1, 2]);
        assert_eq!(world.register(0, &segment), Wc::Success);
        segment.key = variant(first, 3);
        assert_eq!(world.register(0, &segment), Wc::LocalProtection);
        world.reconnect(0);
        assert_eq!(world.query(variant(first, 2)).valid, 1);

        let pd = world.pd();
        for key in [
            world.fast_region(pd, 4),
            world.region(world.owner.pd, ALL),
            world.window(world.owner.pd, WindowType::Type2),
        ] {
            segment.key = key;
            assert_eq!(world.register(0, &segment), Wc::LocalProtection);
            world.reconnect(0);
        }
    }
}

mod binding {
    use super::*;

    type Change = fn(&mut BindSegment);

    /// All of them with a good window; `window + 1` is its key with other low bits.
    const REFUSED: [Change; 13] = [
        |s| s.window += 1,
        |s| s.window += 256,
        |s| s.window = 0,
        |s| s.key += 256,
        |s| s.key = u32::MAX,
        |s| s.region = 0,
        |s| s.region += 1,
        |s| s.region = s.window,
        |s| s.start -= PAGE + 1,
        |s| s.start = u64::MAX,
        |s| s.length = PLACE,
        |s| s.length = u64::MAX,
        |s| s.length = PLACE - PAGE + 1,
    ];

    #[track_caller]
    fn refused(world: &mut World, segment: &BindSegment, window: u32, status: Wc) {
        assert_eq!(world.bind(0, segment), status, "{segment:x?}");
        let query = world.query(window);
        assert_eq!((query.valid, query.region), (0, 0));
        world.reconnect(0);
    }

    #[test]
    fn of_what_does_not_fit() {
        for kind in [WindowType::Type1, WindowType::Type2] {
            let mut world = World::new(true);
            let region = world.region(world.owner.pd, BIND);
            let window = world.window(world.owner.pd, kind);
            let good = world.binding(window, variant(window, 2), region);
            for change in REFUSED {
                let mut segment = good;
                change(&mut segment);
                refused(&mut world, &segment, window, Wc::MemoryWindowBind);
            }
            for bit in [0, 4, 6, 7, 8, 9, 31] {
                let access = good.access | 1 << bit;
                let segment = BindSegment { access, ..good };
                refused(&mut world, &segment, window, Wc::LocalQpOperation);
            }
            let destroyed = world.destroy(AdminOpcode::DestroyMr, region);
            assert_eq!(destroyed, Status::Success, "no window counts");
        }
    }

    #[test]
    fn to_regions_that_do_not_allow_it() {
        let mut world = World::new(true);
        let window = world.window(world.owner.pd, WindowType::Type2);
        let pd = world.pd();
        for (pd, access) in [
            (world.owner.pd, ALL),
            (world.owner.pd, AccessFlags::WINDOW_BIND),
            (pd, BIND),
        ] {
            let region = world.region(pd, access);
            let segment = world.binding(window, variant(window, 2), region);
            refused(&mut world, &segment, window, Wc::MemoryWindowBind);
        }
        let free = world.fast_region(world.owner.pd, 4);
        let segment = world.binding(window, variant(window, 2), free);
        refused(&mut world, &segment, window, Wc::MemoryWindowBind);

        // Reading needs no LOCAL_WRITE.
        let region = world.region(world.owner.pd, AccessFlags::WINDOW_BIND);
        let segment = BindSegment {
            access: AccessFlags::REMOTE_READ.bits(),
            ..world.binding(window, variant(window, 2), region)
        };
        assert_eq!(world.bind(0, &segment), Wc::Success);
    }

    #[test]
    fn of_windows_of_another_domain() {
        let mut world = World::new(true);
        let pd = world.pd();
        let region = world.region(world.owner.pd, BIND);
        for kind in [WindowType::Type1, WindowType::Type2] {
            let window = world.window(pd, kind);
            let segment = world.binding(window, variant(window, 2), region);
            refused(&mut world, &segment, window, Wc::MemoryWindowBind);
        }
    }

    #[test]
    fn by_the_rules_of_the_types() {
        let mut world = World::new(true);
        let region = world.region(world.owner.pd, BIND);
        let one = world.window(world.owner.pd, WindowType::Type1);
        let two = world.window(world.owner.pd, WindowType::Type2);
        let same_key = world.binding(one, one, region);
        refused(&mut world, &same_key, one, Wc::MemoryWindowBind);
        let mut zero_based = world.binding(one, variant(one, 2), region);
        zero_based.access |= AccessFlags::ZERO_BASED.bits();
        refused(&mut world, &zero_based, one, Wc::MemoryWindowBind);
        let nothing = BindSegment {
            length: 0,
            ..world.binding(two, variant(two, 2), region)
        };
        refused(&mut world, &nothing, two, Wc::MemoryWindowBind);

        let good = world.binding(two, variant(two, 2), region);
        assert_eq!(world.bind(0, &good), Wc::Success);
        let again = BindSegment {
            window: good.key,
            key: variant(two, 3),
            ..good
        };
        for qp in [1, 0] {
            assert_eq!(world.bind(qp, &again), Wc::MemoryWindowBind);
            assert_eq!(world.query(good.key).valid, 1);
            world.reconnect(qp);
        }
    }
}

mod invalidation {
    use super::*;

    /// Keys that nobody can invalidate on queue pair 1, and a fast region with a window.
    fn keys(world: &mut World) -> Vec<u32> {
        let pd = world.owner.pd;
        let region = world.region(pd, ALL | BIND);
        let mut keys = vec![0, u32::MAX, 0xffff_ff00, region];
        let one = world.window(pd, WindowType::Type1);
        let two = world.window(pd, WindowType::Type2);
        let free = world.window(pd, WindowType::Type2);
        for window in [one, two] {
            let segment = world.binding(window, variant(window, 2), region);
            assert_eq!(world.bind(0, &segment), Wc::Success);
            keys.extend([window, segment.key]);
        }
        let unregistered = world.fast_region(pd, 4);
        let fast = world.fast_region(pd, 4);
        let registration = world.registration(variant(fast, 2), &[1]);
        assert_eq!(world.register(0, &registration), Wc::Success);
        keys.extend([free, unregistered, fast, variant(fast, 3)]);
        keys
    }

    #[test]
    fn at_home() {
        let mut world = World::new(true);
        for key in keys(&mut world) {
            assert_eq!(world.invalidate(1, key), Wc::LocalProtection, "{key:#x}");
            world.reconnect(1);
        }
    }

    #[test]
    fn by_the_peer() {
        for direct in [true, false] {
            let mut world = World::new(direct);
            for key in keys(&mut world) {
                let (sent, received) = world.send_invalidate(1, key);
                assert_eq!(sent, Wc::RemoteAccess, "{key:#x}");
                assert_eq!(received.status, Wc::LocalAccess.raw());
                world.reconnect(1);
            }
        }
    }

    #[test]
    fn of_another_domain() {
        let mut world = World::new(true);
        let pd = world.pd();
        let fast = world.fast_region(pd, 4);
        let segment = world.registration(variant(fast, 2), &[1]);
        let (driver, cq) = (&mut world.owner.driver, &world.owner.cq);
        let flags = vrnic_abi::admin::QpFlags::PRIVILEGED;
        let other = driver.qp_with(&mut world.bench, pd, cq, cq, flags);
        driver.connect(&mut world.bench, other.number, 1, world.users[0].number);
        world.owners.push(other);
        assert_eq!(world.register(2, &segment), Wc::Success);
        assert_eq!(world.invalidate(1, segment.key), Wc::LocalProtection);
        let (sent, _) = world.send_invalidate(0, segment.key);
        assert_eq!(sent, Wc::RemoteAccess);
        assert_eq!(world.query(segment.key).valid, 1);
    }
}

mod commands {
    use super::*;

    #[track_caller]
    fn refused<T: bytemuck::Pod>(
        world: &mut World,
        opcode: AdminOpcode,
        body: &T,
        status: Status,
        offset: usize,
    ) {
        let driver = &mut world.owner.driver;
        let completion = driver.command(&mut world.bench, opcode, body);
        let got = (Status::from_raw(completion.status), completion.syndrome);
        assert_eq!(got, (Some(status), 8 + offset as u32), "{opcode:?}");
    }

    #[test]
    fn that_allocate() {
        let mut world = World::new(true);
        let region = AllocMr {
            pd: world.owner.pd,
            max_pages: 1,
            ..AllocMr::default()
        };
        let pages = std::mem::offset_of!(AllocMr, max_pages);
        for max_pages in [0, 1025, u32::MAX] {
            let body = AllocMr {
                max_pages,
                ..region
            };
            let (opcode, status) = (AdminOpcode::AllocMr, Status::BadArgument);
            refused(&mut world, opcode, &body, status, pages);
        }
        let body = AllocMr { pd: 99, ..region };
        let missing = Status::NoSuchObject;
        refused(&mut world, AdminOpcode::AllocMr, &body, missing, 0);
        let mut window = AllocMw {
            pd: 99,
            window_type: 1,
            ..AllocMw::default()
        };
        refused(&mut world, AdminOpcode::AllocMw, &window, missing, 0);
        window.pd = world.owner.pd;
        for window_type in [0, 3, 255] {
            let body = AllocMw {
                window_type,
                ..window
            };
            let (opcode, status) = (AdminOpcode::AllocMw, Status::BadArgument);
            refused(&mut world, opcode, &body, status, 4);
        }
    }

    #[test]
    fn that_take_another_kind_of_key() {
        let mut world = World::new(true);
        let region = world.region(world.owner.pd, ALL);
        let fast = world.fast_region(world.owner.pd, 1);
        let window = world.window(world.owner.pd, WindowType::Type1);
        for (opcode, key) in [
            (AdminOpcode::DestroyMr, window),
            (AdminOpcode::FreeMw, region),
            (AdminOpcode::FreeMw, fast),
            (AdminOpcode::FreeMw, variant(window, 9)),
            (AdminOpcode::DestroyMr, variant(fast, 9)),
        ] {
            let status = world.destroy(opcode, key);
            assert_eq!(status, Status::NoSuchObject, "{opcode:?} {key:#x}");
        }
        for (opcode, key) in [
            (AdminOpcode::DestroyMr, region),
            (AdminOpcode::DestroyMr, fast),
            (AdminOpcode::FreeMw, window),
        ] {
            assert_eq!(world.destroy(opcode, key), Status::Success);
            assert_eq!(world.destroy(opcode, key), Status::NoSuchObject);
        }
    }

    /// All page lists together are bounded: 4096 regions with the longest list.
    #[test]
    fn that_would_take_more_memory_than_there_is() {
        let mut world = World::new(true);
        let body = AllocMr {
            pd: world.owner.pd,
            max_pages: 1024,
            ..AllocMr::default()
        };
        let mut allocated = 0;
        let refused = loop {
            let driver = &mut world.owner.driver;
            let done = driver.command(&mut world.bench, AdminOpcode::AllocMr, &body);
            if done.status != 0 {
                break done;
            }
            allocated += 1;
        };
        assert_eq!(refused.status, Status::NoResources.raw());
        // The bench's own queue pairs have a few lists.
        assert!((4090..=4096).contains(&allocated), "{allocated}");
    }
}
