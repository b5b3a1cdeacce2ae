//! Memory windows and fast registration: keys that requests change.

use std::sync::Arc;

use vrnic_driver::abi::admin::{AccessFlags, AdminOpcode, AllocMr, WindowType};
use vrnic_driver::abi::cqe::{CompletionEntry, CompletionOpcode, CompletionStatus};
use vrnic_driver::abi::wqe::{FastRegisterSegment, WqeFlags, WqeOpcode};
use vrnic_driver::{
    BindConfig, Completion, DmaBuffer, Error, FastRegion, Listed, MrConfig, Operation, PostError,
    QpConfig, ReceiveRequest, RegionMemory, Segment, SendRequest, Target, Work,
};

use crate::fake::FakePlatform;
use crate::fake_memory::FakePinned;
use crate::{Bench, region};

const SUCCESS: CompletionStatus = CompletionStatus::Success;

fn bench() -> Bench {
    Bench::new(QpConfig {
        privileged: true,
        ..QpConfig::default()
    })
}

/// Completes the oldest request, and returns its completion.
#[track_caller]
fn finish(bench: &mut Bench, status: CompletionStatus) -> Completion {
    let qpn = bench.qp.number();
    bench.world.complete(qpn, status);
    let mut completions = [Completion::default()];
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    completions[0]
}

fn request(operation: Operation) -> SendRequest<'static> {
    SendRequest {
        operation,
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    }
}

fn config(variant: u8) -> MrConfig {
    MrConfig {
        offset: 0,
        length: 0x2800,
        start: 0x7000_0000,
        access: AccessFlags::REMOTE_READ,
        variant,
    }
}

#[track_caller]
fn map(bench: &Bench, region: &mut FastRegion<FakePlatform>, variant: u8) {
    let memory = RegionMemory::Dma(bench.driver.allocate(0x3000).expect("memory"));
    region.map(memory, config(variant)).expect("maps");
}

#[track_caller]
fn register(bench: &mut Bench, region: &mut FastRegion<FakePlatform>) -> Result<(), PostError> {
    bench
        .qp
        .post_fast_register(5, region, Target::Peer, WqeFlags::SIGNALED)
}

#[test]
fn a_registration_says_what_was_mapped() {
    let mut bench = bench();
    let mut region = bench
        .driver
        .create_fast_region(&bench.pd, 8, 1)
        .expect("MR");
    let body: AllocMr = bench
        .world
        .with(|device| device.latest(AdminOpcode::AllocMr));
    assert_eq!((body.pd, body.max_pages), (bench.pd.number(), 8));
    let first = region.key();
    let pieces = [(0x80_0000, 0x2000), (0x90_0000, 0x1000)];
    let pieces = pieces.map(|(address, length)| Segment { address, length });
    let memory = RegionMemory::Pinned(Arc::new(FakePinned(pieces.to_vec())));
    region.map(memory, config(2)).expect("maps");
    assert_eq!(region.key(), first & !0xff | 2);
    register(&mut bench, &mut region).expect("room");
    let qpn = bench.qp.number();
    bench.world.with(|device| {
        let words: [u64; 8] = device.request(qpn, 0);
        assert_eq!(words[0] & 0xff, u64::from(WqeOpcode::FastRegister.raw()));
        let words: [u64; 6] = std::array::from_fn(|word| words[2 + word]);
        let segment: FastRegisterSegment = bytemuck::cast(words);
        assert_eq!(segment.key, region.key());
        assert_eq!((segment.start, segment.length), (0x7000_0000, 0x2800));
        assert_eq!(segment.access, AccessFlags::REMOTE_READ.bits());
        assert_eq!((segment.pages, segment.page_shift), (3, 12));
        let pages: [u64; 3] = device.read_pod(segment.list);
        assert_eq!(pages, [0x80_0000, 0x80_1000, 0x90_0000]);
    });
}

#[test]
fn list_and_memory_live_as_long_as_the_device_may_look_at_them() {
    let mut bench = bench();
    let mut region = bench
        .driver
        .create_fast_region(&bench.pd, 8, 1)
        .expect("MR");
    let key = region.key();
    assert_eq!(register(&mut bench, &mut region), Err(PostError::NotMapped));
    map(&bench, &mut region, 2);
    register(&mut bench, &mut region).expect("room");
    assert!(region.is_posted());
    // Everything that would free or change the list is refused.
    let busy = |error: Option<Error>| assert!(matches!(error, Some(Error::Busy(_))));
    let other = || RegionMemory::Dma(bench.driver.allocate(0x3000).expect("memory"));
    busy(region.map(other(), config(3)).err());
    busy(region.release_invalid().err());
    busy(region.destroy().err());
    assert_eq!(register(&mut bench, &mut region), Err(PostError::NotMapped));
    let completion = finish(&mut bench, SUCCESS);
    assert_eq!(completion.work, Work::Request(WqeOpcode::FastRegister));
    assert_eq!(completion.validated_key(), Some(region.key()));
    assert!(!region.is_posted());
    bench
        .world
        .with(|device| device.change_key(key, region.key(), true));
    // The list is free, but the memory is not.
    busy(region.release_invalid().err());
    let invalidate = request(Operation::LocalInvalidate(region.key()));
    bench.qp.post_send(&invalidate).expect("room");
    let completion = finish(&mut bench, SUCCESS);
    assert_eq!(completion.invalidated_key(), Some(region.key()));
    let buffers = bench.world.buffers();
    assert!(region.release(&completion).is_some());
    assert!(region.release(&completion).is_none());
    assert_eq!(bench.world.buffers(), buffers - 1);
    // The device wants another key than before.
    let memory = RegionMemory::Dma(bench.driver.allocate(0x3000).expect("memory"));
    let same = region.map(memory, config(2)).err();
    assert!(matches!(same, Some(Error::BadArgument(_))));
    map(&bench, &mut region, 3);
    assert_eq!(region.key(), key & !0xff | 3);
}

#[test]
fn the_peer_can_invalidate_before_the_own_completion_is_seen() {
    let mut bench = bench();
    let mut region = bench
        .driver
        .create_fast_region(&bench.pd, 8, 1)
        .expect("MR");
    map(&bench, &mut region, 2);
    register(&mut bench, &mut region).expect("room");
    let receive = ReceiveRequest::default();
    bench.qp.post_receive(&receive).expect("room");
    for (key, released) in [(region.key() ^ 1, false), (region.key(), true)] {
        let entry = CompletionEntry {
            qpn: bench.qp.number(),
            wqe_index: u32::from(released),
            opcode: CompletionOpcode::ReceiveInvalidate.raw(),
            immediate: key,
            ..CompletionEntry::default()
        };
        bench.world.with(|device| device.write_completion(entry));
        let mut completions = [Completion::default()];
        assert_eq!(bench.cq.poll(&mut completions), Ok(1));
        assert_eq!(region.release(&completions[0]).is_some(), released);
        bench.qp.post_receive(&receive).expect("room");
    }
}

#[test]
fn a_flushed_registration_leaves_the_old_key() {
    let mut bench = bench();
    let mut region = bench
        .driver
        .create_fast_region(&bench.pd, 8, 1)
        .expect("MR");
    let key = region.key();
    map(&bench, &mut region, 2);
    register(&mut bench, &mut region).expect("room");
    let completion = finish(&mut bench, CompletionStatus::Flushed);
    assert!(region.release(&completion).is_none());
    assert!(region.release_invalid().expect("invalid").is_some());
    assert_eq!(region.key(), key);
    // The device knows the object by its old key only.
    region.destroy().expect("destroy");
    assert_eq!(region.query().err(), Some(Error::Stale));
}

#[test]
fn a_region_that_is_dropped_leaves_its_memory_until_reset() {
    let mut bench = bench();
    let mut region = bench
        .driver
        .create_fast_region(&bench.pd, 8, 1)
        .expect("MR");
    map(&bench, &mut region, 2);
    register(&mut bench, &mut region).expect("room");
    let buffers = bench.world.buffers();
    drop(region);
    assert_eq!(bench.world.buffers(), buffers);
    bench.driver.recover().expect("recover");
    assert!(bench.world.buffers() <= buffers - 2);
}

#[test]
fn only_privileged_queue_pairs_register_and_only_what_fits() {
    let mut bench = Bench::new(QpConfig::default());
    let driver = &bench.driver;
    let mut region = driver.create_fast_region(&bench.pd, 2, 1).expect("MR");
    let memory = RegionMemory::Dma(driver.allocate(0x3000).expect("memory"));
    let error = region.map(memory, config(2)).err();
    assert!(matches!(error, Some(Error::BadArgument(_))), "three pages");
    let memory = RegionMemory::Dma(driver.allocate(0x3000).expect("memory"));
    let short = MrConfig {
        length: 0x2000,
        ..config(2)
    };
    region.map(memory, short).expect("two pages");
    assert_eq!(
        register(&mut bench, &mut region),
        Err(PostError::Unsupported)
    );
    for pages in [0, 65] {
        let error = bench.driver.create_fast_region(&bench.pd, pages, 0).err();
        assert!(matches!(error, Some(Error::BadArgument(_))));
    }
}

#[test]
fn memory_of_somebody_else_is_registered_as_often_as_he_likes() {
    let mut bench = bench();
    let (driver, pd) = (&bench.driver, &bench.pd);
    let mut region = driver.create_fast_region(pd, 2, 1).expect("MR");
    let first = region.key();
    let listed = |pages, variant| Listed {
        pages,
        page_shift: 12,
        start: 0x7000_0010,
        length: 0x1000,
        access: AccessFlags::LOCAL_WRITE,
        variant,
    };
    for pages in [0, 3] {
        let error = region.describe(&listed(pages, 2)).err();
        assert!(matches!(error, Some(Error::BadArgument(_))));
    }
    assert_eq!(register(&mut bench, &mut region), Err(PostError::NotMapped));
    // Nobody waits for the completions: the owner knows from elsewhere that they are done.
    // Each takes one block.
    for (block, variant) in [(0, 2), (1, 3)] {
        region.list().store(0, 0x5_0000);
        region.list().store(8, u64::from(variant) << 16);
        region.describe(&listed(2, variant)).expect("fits");
        register(&mut bench, &mut region).expect("room");
        assert!(!region.is_posted());
        let qpn = bench.qp.number();
        bench.world.with(|device| {
            let words: [u64; 8] = device.request(qpn, block);
            let words: [u64; 6] = std::array::from_fn(|word| words[2 + word]);
            let segment: FastRegisterSegment = bytemuck::cast(words);
            assert_eq!(segment.key, first & !0xff | u32::from(variant));
            assert_eq!((segment.start, segment.length), (0x7000_0010, 0x1000));
            assert_eq!((segment.pages, segment.page_shift), (2, 12));
            assert_eq!(segment.access, AccessFlags::LOCAL_WRITE.bits());
            let pages: [u64; 2] = device.read_pod(segment.list);
            assert_eq!(pages, [0x5_0000, u64::from(variant) << 16]);
        });
    }
    // Only the first of the two has taken effect.
    bench
        .world
        .with(|device| device.change_key(first, first & !0xff | 2, false));
    region.destroy().expect("destroy");
    assert!(bench.world.with(|device| device.keys.is_empty()));
}

#[test]
fn a_window_that_others_bind_is_found_under_its_key() {
    let bench = bench();
    let (driver, pd) = (&bench.driver, &bench.pd);
    for variant in [0, 6, 7, 255] {
        let mut window = driver.create_mw(pd, WindowType::Type2, 7).expect("MW");
        let (first, key) = (window.key(), window.key() & !0xff | variant);
        bench
            .world
            .with(|device| device.change_key(first, key, true));
        if variant % 2 == 0 {
            assert_eq!(window.query().expect("query").key, key);
            assert_eq!(window.key(), key);
        }
        window.destroy().expect("destroy");
        assert!(bench.world.with(|device| device.keys.is_empty()));
    }
}

#[test]
fn a_window_follows_its_binds() {
    let mut bench = bench();
    let mr = region(&bench.driver, &bench.pd);
    let (driver, pd) = (&bench.driver, &bench.pd);
    let mut window = driver.create_mw(pd, WindowType::Type2, 7).expect("MW");
    let first = window.key();
    let config = |variant| BindConfig {
        start: mr.start(),
        length: 100,
        access: AccessFlags::REMOTE_READ,
        variant,
    };
    let bind = window.bind(&mr, config(8));
    assert_eq!((bind.window, bind.key), (first, first & !0xff | 8));
    assert_eq!(bind.region, mr.key());
    bench
        .qp
        .post_send(&request(Operation::BindWindow(bind)))
        .expect("room");
    let completion = finish(&mut bench, SUCCESS);
    assert_eq!(completion.validated_key(), Some(bind.key));
    assert!(window.completed(&completion));
    bench
        .world
        .with(|device| device.change_key(first, bind.key, true));
    assert_eq!(window.key(), bind.key);
    assert_eq!(window.query().expect("query").valid, 1);
    // A bind that fails leaves the key; the driver finds out when it has to know.
    let failed = window.bind(&mr, config(9));
    bench
        .qp
        .post_send(&request(Operation::BindWindow(failed)))
        .expect("room");
    let completion = finish(&mut bench, CompletionStatus::MemoryWindowBind);
    assert!(!window.completed(&completion));
    assert_eq!(window.query().expect("query").key, bind.key);
    // One that was never signaled may have given it the other.
    let unseen = window.bind(&mr, config(10));
    bench
        .world
        .with(|device| device.change_key(bind.key, unseen.key, true));
    window.destroy().expect("destroy");
    assert!(bench.world.with(|device| device.keys.is_empty()));
    assert_eq!(window.query().err(), Some(Error::Stale));
}
