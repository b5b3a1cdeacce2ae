//! Fast registration and memory windows, driver on firmware: who can access what, and until when.

use std::sync::Arc;

use vrnic_abi::admin::{AccessFlags, WindowType};
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::{KeyType, PathMtu};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    BindConfig, Completion, Data, DmaBuffer, FastRegion, MrConfig, Operation, QpConfig,
    RegionMemory, Remote, SendRequest, Target,
};
use vrnic_tests::platform::{SimDma, SimPlatform};
use vrnic_tests::wire::Faults;

use crate::pair::{DEPTH, Pair, Place, SIZE, Side};

const PLACES: [Place; 2] = [Place::Wire, Place::Direct];
const PATTERN: u8 = 0xa5;
/// Where fast registered memory starts; not a DMA address.
const START: u64 = 0x6000_0000_0000;
const LENGTH: usize = 0x2800;
const SUCCESS: CompletionStatus = CompletionStatus::Success;

/// Two connected sides with privileged queue pairs.
#[track_caller]
fn privileged(place: Place) -> Pair {
    let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
    for side in [&mut pair.a, &mut pair.b] {
        renew(side);
    }
    pair.connect();
    pair
}

/// Gives a side a privileged queue pair, in INIT.
#[track_caller]
fn renew(side: &mut Side) {
    let config = QpConfig {
        send_requests: DEPTH,
        receive_requests: DEPTH,
        privileged: true,
        ..QpConfig::default()
    };
    side.qp.destroy().unwrap();
    let (pd, cq) = (&side.pd, &side.cq);
    side.qp = side.driver.create_qp(pd, cq, cq, config).unwrap();
    let access = AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE;
    side.qp.to_init(access).unwrap();
}

#[track_caller]
fn only(completions: &[Completion]) -> Completion {
    let [completion] = completions else {
        panic!("one completion, not {completions:?}");
    };
    *completion
}

/// Posts a request of a side's that has no data, and waits for its completion.
#[track_caller]
fn request(side: &mut Side, operation: Operation) -> Completion {
    let request = SendRequest {
        operation,
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    };
    side.qp.post_send(&request).unwrap();
    only(&side.wait())
}

/// Writes 100 bytes of A's memory to `remote`, a place of B's.
#[track_caller]
fn write(pair: &mut Pair, remote: Remote) -> CompletionStatus {
    pair.a.send(1, Operation::Write(remote), 0, 100).unwrap();
    only(&pair.a.wait()).status
}

/// Maps new memory into B's region and registers it.
#[track_caller]
fn register(pair: &mut Pair, region: &mut FastRegion<SimPlatform>, variant: u8) -> Arc<SimDma> {
    let memory = pair.b.driver.allocate(0x3000).unwrap();
    memory.write(0, &[PATTERN; 0x3000]);
    let config = MrConfig {
        offset: 0x400,
        length: LENGTH as u64,
        start: START + 0x400,
        access: AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE,
        variant,
    };
    region
        .map(RegionMemory::Dma(Arc::clone(&memory)), config)
        .unwrap();
    let flags = WqeFlags::SIGNALED;
    let qp = &mut pair.b.qp;
    qp.post_fast_register(9, region, Target::Peer, flags)
        .unwrap();
    let completion = only(&pair.b.wait());
    assert_eq!((completion.wr_id, completion.status), (9, SUCCESS));
    assert_eq!(completion.validated_key(), Some(region.key()));
    memory
}

#[test]
fn memory_is_registered_written_and_invalidated_by_the_owner() {
    for place in PLACES {
        let mut pair = privileged(place);
        let mut region = pair.b.driver.create_fast_region(&pair.b.pd, 4, 1).unwrap();
        assert_eq!(region.query().unwrap().valid, 0);
        for round in 0..5u8 {
            let memory = register(&mut pair, &mut region, round + 2);
            let found = region.query().unwrap();
            assert_eq!((found.key, found.valid), (region.key(), 1));
            assert_eq!(found.key_type, KeyType::FastRegion.raw());
            let data = [round + 1; 100];
            pair.a.fill(0, &data);
            let remote = Remote {
                address: START + 0x1000,
                rkey: region.key(),
            };
            assert_eq!(write(&mut pair, remote), SUCCESS, "{place:?}");
            let mut found = vec![0; 0x3000];
            memory.read(0, &mut found);
            assert_eq!(found[0x1000..0x1064], data);
            let guards = found[..0x1000].iter().chain(&found[0x1064..]);
            assert!(guards.copied().all(|byte| byte == PATTERN));
            let key = region.key();
            let completion = request(&mut pair.b, Operation::LocalInvalidate(key));
            assert_eq!(completion.status, SUCCESS);
            assert!(region.release(&completion).is_some());
            assert_eq!(region.query().unwrap().valid, 0);
        }
        // The old key gives no access.
        let remote = Remote {
            address: START + 0x1000,
            rkey: region.key(),
        };
        assert_eq!(write(&mut pair, remote), CompletionStatus::RemoteAccess);
        region.destroy().unwrap();
    }
}

#[test]
fn the_peer_invalidates_with_a_send() {
    for place in PLACES {
        let mut pair = privileged(place);
        let mut region = pair.b.driver.create_fast_region(&pair.b.pd, 4, 1).unwrap();
        for round in 0..3 {
            register(&mut pair, &mut region, round + 2);
            pair.b.receive(5, 0, 100).unwrap();
            let operation = Operation::SendInvalidate(region.key());
            pair.a.send(1, operation, 0, 10).unwrap();
            assert_eq!(only(&pair.a.wait()).status, SUCCESS);
            let completion = only(&pair.b.wait());
            assert_eq!(completion.invalidated_key(), Some(region.key()));
            assert!(region.release(&completion).is_some());
        }
        region.destroy().unwrap();
    }
}

#[test]
fn a_registration_that_was_flushed_can_be_taken_back() {
    let mut pair = privileged(Place::Wire);
    let mut region = pair.b.driver.create_fast_region(&pair.b.pd, 4, 1).unwrap();
    let before = region.key();
    let memory = RegionMemory::Dma(pair.b.driver.allocate(0x1000).unwrap());
    let config = MrConfig {
        offset: 0,
        length: 0x1000,
        start: START,
        access: AccessFlags::LOCAL_WRITE,
        variant: 2,
    };
    region.map(memory, config).unwrap();
    pair.b
        .qp
        .modify_state(vrnic_abi::object::QpState::Error)
        .unwrap();
    let qp = &mut pair.b.qp;
    qp.post_fast_register(9, &mut region, Target::Peer, WqeFlags::SIGNALED)
        .unwrap();
    let completion = only(&pair.b.wait());
    assert_eq!(completion.status, CompletionStatus::Flushed);
    assert!(region.release(&completion).is_none());
    assert!(region.release_invalid().unwrap().is_some());
    assert_eq!(region.key(), before);
    region.destroy().unwrap();
}

/// A region of B's that windows can be bound to, over its whole memory.
#[track_caller]
fn bindable(side: &Side) -> vrnic_driver::MemoryRegion<SimPlatform> {
    let config = MrConfig {
        offset: 0,
        length: SIZE as u64,
        start: START,
        access: AccessFlags::LOCAL_WRITE | AccessFlags::WINDOW_BIND,
        variant: 3,
    };
    let memory = RegionMemory::Dma(Arc::clone(&side.memory));
    side.driver.create_mr(&side.pd, memory, config).unwrap()
}

#[test]
fn a_window_gives_access_to_its_range_only() {
    for (place, window_type) in PLACES.into_iter().flat_map(|place| {
        [WindowType::Type1, WindowType::Type2].map(|window_type| (place, window_type))
    }) {
        let mut pair = privileged(place);
        let mut mr = bindable(&pair.b);
        let driver = &pair.b.driver;
        let mut window = driver.create_mw(&pair.b.pd, window_type, 7).unwrap();
        let config = BindConfig {
            start: START + 0x1000,
            length: 150,
            access: AccessFlags::REMOTE_WRITE,
            variant: 8,
        };
        let bind = window.bind(&mr, config);
        let completion = request(&mut pair.b, Operation::BindWindow(bind));
        assert_eq!(completion.status, SUCCESS);
        assert!(window.completed(&completion));
        let found = window.query().unwrap();
        assert_eq!((found.valid, found.region), (1, mr.key()));
        // A region with windows stays.
        assert!(mr.destroy().is_err());
        pair.b.fill(0, &[PATTERN; 0x2000]);
        pair.a.fill(0, &[9; 100]);
        let remote = |offset: u64| Remote {
            address: START + offset,
            rkey: window.key(),
        };
        assert_eq!(write(&mut pair, remote(0x1000)), SUCCESS);
        assert_eq!(pair.b.bytes(0x1000, 100), [9; 100]);
        assert_eq!(pair.b.bytes(0x1064, 100), [PATTERN; 100]);
        // Beyond the range.
        let refused = write(&mut pair, remote(0x1033));
        assert_eq!(refused, CompletionStatus::RemoteAccess);
        assert_eq!(pair.b.bytes(0x1064, 100), [PATTERN; 100]);
        window.destroy().unwrap();
        mr.destroy().unwrap();
    }
}

#[test]
fn a_window_that_cannot_be_bound_keeps_its_key() {
    let mut pair = privileged(Place::Direct);
    let mr = bindable(&pair.b);
    let driver = &pair.b.driver;
    let mut window = driver.create_mw(&pair.b.pd, WindowType::Type1, 7).unwrap();
    let key = window.key();
    let config = BindConfig {
        start: START,
        length: SIZE as u64 + 1,
        access: AccessFlags::REMOTE_WRITE,
        variant: 8,
    };
    let bind = window.bind(&mr, config);
    let completion = request(&mut pair.b, Operation::BindWindow(bind));
    assert_eq!(completion.status, CompletionStatus::MemoryWindowBind);
    assert!(!window.completed(&completion));
    assert_eq!(window.query().unwrap().key, key);
    window.destroy().unwrap();
}

#[test]
fn inline_data_needs_no_key() {
    let mut pair = privileged(Place::Wire);
    pair.b.fill(0, &[PATTERN; 64]);
    let data = [7; 32];
    let request = SendRequest {
        operation: Operation::Write(pair.b.remote(16)),
        data: Data::Inline(&data),
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    };
    pair.a.qp.post_send(&request).unwrap();
    assert_eq!(only(&pair.a.wait()).status, SUCCESS);
    assert_eq!(pair.b.bytes(16, 32), data);
    assert_eq!(pair.b.bytes(48, 16), [PATTERN; 16]);
}
