//! Objects whose rings are in a user process' memory, driver on firmware.

use std::sync::Arc;

use vrnic_abi::admin::{AccessFlags, QpType, Status};
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{AddressVector, PathMtu, QpAttributes, QpMask, QpState};
use vrnic_driver::{
    DoorbellPage, Error, MemoryRegion, Moderation, MrConfig, Platform, RegionMemory, Remote, Sge,
    UserCompletionQueue, UserCqConfig, UserQpConfig, UserQueuePair, UserReceive,
    UserSharedReceiveQueue, UserSrqConfig,
};
use vrnic_tests::platform::{SimPinned, SimPlatform};
use vrnic_tests::wire::Faults;

use crate::pair::{LIMIT, Pair, Place, Side};
use crate::process::{Cq, Receives, Sends, Slot};

type UserCq = UserCompletionQueue<SimPlatform>;
type UserQp = UserQueuePair<SimPlatform>;
type UserSrq = UserSharedReceiveQueue<SimPlatform>;

const PLACES: [Place; 2] = [Place::Wire, Place::Direct];
/// Entries of completion rings, as a power of two: two pages.
const LOG_CQ: u8 = 7;
/// Blocks of a send queue: three pages with the receive queue before it.
const LOG_SEND: u8 = 7;
const LOG_RECEIVE: u8 = 7;
const LOG_SEGMENTS: u8 = 1;
/// Bytes of the memory that is sent from and received in.
const SIZE: usize = 16 * 4096;
const START: u64 = 0x5555_0000_0000;
const PATTERN: u8 = 0xa5;

/// A process with a doorbell page and memory.
struct Process {
    platform: SimPlatform,
    page: DoorbellPage<SimPlatform>,
    memory: Arc<SimPinned>,
    mr: MemoryRegion<SimPlatform>,
}

impl Process {
    fn new(side: &Side) -> Self {
        let platform = side.driver.platform().clone();
        let memory = platform.pin(SIZE);
        memory.write(0, &[PATTERN; SIZE]);
        let config = MrConfig {
            offset: 0,
            length: SIZE as u64,
            start: START,
            access: AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE,
            variant: 1,
        };
        let region = RegionMemory::Pinned(Arc::clone(&memory));
        let mr = side.driver.create_mr(&side.pd, region, config).unwrap();
        Self {
            page: side.driver.create_doorbell_page().unwrap(),
            platform,
            memory,
            mr,
        }
    }

    fn slot(&self, slot: u32) -> Slot {
        Slot {
            platform: self.platform.clone(),
            page: self.page.number(),
            slot,
        }
    }

    fn cq(&self, side: &Side, context: u64) -> (UserCq, Cq) {
        let memory = self.platform.pin(64 << LOG_CQ);
        let config = UserCqConfig {
            log_entries: LOG_CQ,
            context,
            doorbell_page: self.page.number(),
            ..UserCqConfig::default()
        };
        let pinned = RegionMemory::Pinned(Arc::clone(&memory));
        let cq = side.driver.create_user_cq(pinned, config).unwrap();
        let ring = Cq::new(self.slot(cq.slot()), &memory, LOG_CQ);
        (cq, ring)
    }

    fn qp_config(&self, qp_type: QpType) -> UserQpConfig {
        UserQpConfig {
            qp_type,
            log_send_blocks: LOG_SEND,
            log_receive_entries: LOG_RECEIVE,
            log_receive_segments: LOG_SEGMENTS,
            doorbell_page: self.page.number(),
            context: 0x9900 + u64::from(qp_type.raw()),
            ..UserQpConfig::default()
        }
    }

    /// A queue pair, its send ring, and its receive ring if it has its own.
    fn qp(
        &self,
        side: &Side,
        qp_type: QpType,
        cq: &UserCq,
        receive: &UserReceive<'_, SimPlatform>,
    ) -> (UserQp, Sends, Option<Receives>) {
        let own = matches!(receive, UserReceive::Own(_));
        let offset = if own { 32 << LOG_RECEIVE } else { 0 };
        let memory = self.platform.pin(offset + (64 << LOG_SEND));
        let pinned = RegionMemory::Pinned(Arc::clone(&memory));
        let config = self.qp_config(qp_type);
        let created =
            side.driver
                .create_user_qp(&side.pd, &cq.reference(), receive, pinned, config);
        let qp = created.unwrap();
        let sends = Sends {
            slot: self.slot(qp.send_slot()),
            memory: Arc::clone(&memory),
            offset,
            log: LOG_SEND,
            qpn: qp.number(),
            head: 0,
        };
        assert_eq!(qp.receive_slot().is_some(), own);
        let receives = qp.receive_slot().map(|slot| Receives {
            slot: self.slot(slot),
            memory,
            log: LOG_RECEIVE,
            log_segments: LOG_SEGMENTS,
            head: 0,
        });
        (qp, sends, receives)
    }

    fn srq(
        &self,
        create: impl FnOnce(RegionMemory<SimPlatform>, UserSrqConfig) -> UserSrq,
    ) -> (UserSrq, Receives) {
        let memory = self.platform.pin(32 << LOG_RECEIVE);
        let config = UserSrqConfig {
            log_entries: LOG_RECEIVE,
            log_segments: LOG_SEGMENTS,
            doorbell_page: self.page.number(),
            context: 0x5e9,
        };
        let srq = create(RegionMemory::Pinned(Arc::clone(&memory)), config);
        let receives = Receives {
            slot: self.slot(srq.slot()),
            memory,
            log: LOG_RECEIVE,
            log_segments: LOG_SEGMENTS,
            head: 0,
        };
        (srq, receives)
    }

    fn sge(&self, offset: usize, length: usize) -> Sge {
        Sge {
            address: START + offset as u64,
            length: length as u32,
            lkey: self.mr.key(),
        }
    }

    fn remote(&self, offset: usize) -> Remote {
        Remote {
            address: START + offset as u64,
            rkey: self.mr.key(),
        }
    }

    fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read(offset, &mut bytes);
        bytes
    }

    /// The next completion.
    #[track_caller]
    fn wait(&self, cq: &mut Cq) -> CompletionEntry {
        let deadline = self.platform.now() + LIMIT;
        loop {
            if let Some(entry) = cq.poll() {
                return entry;
            }
            assert!(self.platform.now() < deadline, "nothing completes");
            self.platform.relax(None, self.platform.now() + 1000);
        }
    }

    #[track_caller]
    fn good(&self, cq: &mut Cq) -> CompletionEntry {
        let entry = self.wait(cq);
        assert_eq!(entry.status, CompletionStatus::Success.raw());
        entry
    }
}

/// What a provider passes to go to RTS; `connected` to queue pair `remote_qpn` of `peer`.
#[track_caller]
fn to_rts(
    modify: &mut dyn FnMut(&QpAttributes, QpMask),
    peer: &Side,
    remote_qpn: u32,
    qp_type: QpType,
) {
    let access = AccessFlags::REMOTE_WRITE;
    let attributes = QpAttributes {
        state: QpState::Init.raw(),
        port: 1,
        access: access.bits(),
        path_mtu: PathMtu::Mtu1024.raw(),
        remote_qpn,
        receive_psn: 7,
        send_psn: 7,
        responder_resources: 4,
        initiator_depth: 4,
        min_rnr_timer: 1,
        timeout: 8,
        retry_count: 7,
        rnr_retry: 7,
        primary: AddressVector {
            gid: peer.gid,
            mac: peer.mac,
            ..AddressVector::default()
        },
        ..QpAttributes::default()
    };
    let initiates = qp_type != QpType::XrcTarget;
    let responds = qp_type != QpType::XrcInitiator;
    modify(
        &attributes,
        QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::ACCESS,
    );
    let mut mask = QpMask::STATE
        | QpMask::PRIMARY_PATH
        | QpMask::PATH_MTU
        | QpMask::REMOTE_QPN
        | QpMask::RECEIVE_PSN;
    mask.set(
        QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER,
        responds,
    );
    let state = |state: QpState| QpAttributes {
        state: state.raw(),
        ..attributes
    };
    modify(&state(QpState::Rtr), mask);
    let mut mask = QpMask::STATE | QpMask::SEND_PSN | QpMask::TIMEOUT;
    let reliable = QpMask::RETRY_COUNT | QpMask::RNR_RETRY | QpMask::INITIATOR_DEPTH;
    mask.set(reliable, initiates);
    modify(&state(QpState::Rts), mask);
}

#[track_caller]
fn connect(qp: &mut UserQp, peer: &Side, remote_qpn: u32) {
    let qp_type = qp.qp_type();
    let mut modify = |attributes: &QpAttributes, mask| qp.modify(attributes, mask).unwrap();
    to_rts(&mut modify, peer, remote_qpn, qp_type);
}

fn pair(place: Place) -> Pair {
    Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024)
}

/// Buffers of both functions' guests.
#[track_caller]
fn buffers(pair: &Pair) -> usize {
    let of = |side: &Side| {
        // The admin queue keeps what the command before was about.
        side.driver.nop().unwrap().wait().unwrap();
        side.driver.platform().function().memory().buffers()
    };
    of(&pair.a) + of(&pair.b)
}

#[test]
fn processes_send_and_write_through_scattered_rings() {
    for place in PLACES {
        let pair = pair(place);
        let before = buffers(&pair);
        let (a, b) = (Process::new(&pair.a), Process::new(&pair.b));
        let (mut a_cq, mut a_ring) = a.cq(&pair.a, 0xa);
        let (mut b_cq, mut b_ring) = b.cq(&pair.b, 0xb);
        let receive = UserReceive::Own(a_cq.reference());
        let (mut a_qp, mut sends, _) = a.qp(&pair.a, QpType::Rc, &a_cq, &receive);
        let receive = UserReceive::Own(b_cq.reference());
        let (mut b_qp, _, receives) = b.qp(&pair.b, QpType::Rc, &b_cq, &receive);
        let mut receives = receives.unwrap();
        connect(&mut a_qp, &pair.b, b_qp.number());
        connect(&mut b_qp, &pair.a, a_qp.number());
        assert_eq!(a_qp.query().unwrap().state, QpState::Rts.raw());
        // Several rounds of each ring, and of the pages they are in.
        for round in 0..600u32 {
            let length = round as usize * 11 % 5000 + 1;
            let data: Vec<u8> = (0..length).map(|i| (i as u32 + round) as u8).collect();
            a.memory.write(100, &data);
            b.memory.write(0, &vec![PATTERN; 16384]);
            receives.post(b.sge(200, 6000));
            sends.post(a.sge(100, length), Some(b.remote(8192)), None);
            sends.post(a.sge(100, length), None, None);
            for index in [2 * round, 2 * round + 1] {
                let sent = a.good(&mut a_ring);
                assert_eq!((sent.qpn, sent.wqe_index), (a_qp.number(), index));
            }
            let received = b.good(&mut b_ring);
            assert_eq!((received.qpn, received.wqe_index), (b_qp.number(), round));
            assert_eq!(received.byte_length as usize, length);
            for offset in [200, 8192] {
                assert_eq!(b.bytes(offset, length), data, "{place:?}, round {round}");
                assert_eq!(b.bytes(offset + length, 1), [PATTERN]);
            }
        }
        // In use, the queue stays, and so does its memory.
        let refused = a_cq.destroy().err();
        assert!(matches!(
            refused,
            Some(Error::Command {
                status: Status::Busy,
                ..
            })
        ));
        a_qp.destroy().unwrap();
        b_qp.destroy().unwrap();
        a_cq.destroy().unwrap();
        b_cq.destroy().unwrap();
        drop((a_qp, b_qp, a_cq, b_cq, sends, receives, a_ring, b_ring));
        for mut process in [a, b] {
            process.mr.destroy().unwrap();
            process.page.destroy().unwrap();
        }
        assert_eq!(buffers(&pair), before);
    }
}

#[test]
fn a_process_shares_receives_between_its_queue_pairs() {
    let pair = pair(Place::Wire);
    let (a, b) = (Process::new(&pair.a), Process::new(&pair.b));
    let (a_cq, mut a_ring) = a.cq(&pair.a, 0xa);
    let (b_cq, mut b_ring) = b.cq(&pair.b, 0xb);
    let (mut srq, mut receives) = b.srq(|memory, config| {
        let srq = pair.b.driver.create_user_srq(&pair.b.pd, memory, config);
        srq.unwrap()
    });
    let mut qps = Vec::new();
    for _ in 0..2 {
        let receive = UserReceive::Own(a_cq.reference());
        let (mut near, sends, _) = a.qp(&pair.a, QpType::Rc, &a_cq, &receive);
        let receive = UserReceive::Shared(b_cq.reference(), &srq);
        let (mut far, _, own) = b.qp(&pair.b, QpType::Rc, &b_cq, &receive);
        assert!(own.is_none());
        connect(&mut near, &pair.b, far.number());
        connect(&mut far, &pair.a, near.number());
        qps.push((near, sends, far));
    }
    for round in 0..20usize {
        receives.post(b.sge(round * 512, 512));
        let (_, sends, far) = &mut qps[round % 2];
        a.memory.write(0, &[round as u8 + 1; 300]);
        sends.post(a.sge(0, 300), None, None);
        a.good(&mut a_ring);
        let found = b.good(&mut b_ring);
        assert_eq!((found.qpn, found.srqn), (far.number(), srq.number()));
        assert_eq!(found.wqe_index as usize, round);
        assert_eq!(b.bytes(round * 512, 300), [round as u8 + 1; 300]);
    }
    // Nothing is left: the limit is met at once, and the event finds its owner.
    srq.set_limit(1).unwrap();
    pair.b.driver.handle_interrupt(0);
    let mut events = std::iter::from_fn(|| pair.b.driver.poll_event());
    let limit = events
        .find(|event| event.event == EventType::SrqLimit)
        .unwrap();
    assert_eq!((limit.object, limit.context), (srq.number(), 0x5e9));
    for (mut near, _, mut far) in qps {
        near.destroy().unwrap();
        far.destroy().unwrap();
    }
    srq.destroy().unwrap();
}

#[test]
fn an_xrc_initiator_of_a_process_reaches_a_shared_queue_of_another() {
    let pair = pair(Place::Direct);
    let (a, b) = (Process::new(&pair.a), Process::new(&pair.b));
    let (a_cq, mut a_ring) = a.cq(&pair.a, 0xa);
    let (b_cq, mut b_ring) = b.cq(&pair.b, 0xb);
    let xrcd = pair.b.driver.create_xrcd().unwrap();
    let (srq, mut receives) = b.srq(|memory, config| {
        let (driver, pd) = (&pair.b.driver, &pair.b.pd);
        let srq = driver.create_user_xrc_srq(pd, &xrcd, &b_cq, memory, config);
        srq.unwrap()
    });
    let (mut initiator, mut sends, _) =
        a.qp(&pair.a, QpType::XrcInitiator, &a_cq, &UserReceive::None);
    let target = pair
        .b
        .driver
        .create_xrc_target(Some(&pair.b.pd), &xrcd, 0x7a);
    let mut target = target.unwrap();
    connect(&mut initiator, &pair.b, target.number());
    let mut modify = |attributes: &QpAttributes, mask| target.modify(attributes, mask).unwrap();
    to_rts(&mut modify, &pair.a, initiator.number(), QpType::XrcTarget);
    for round in 0..5u8 {
        receives.post(b.sge(4000, 400));
        a.memory.write(0, &[round + 1; 300]);
        sends.post(a.sge(0, 300), None, Some(srq.number()));
        a.good(&mut a_ring);
        let found = b.good(&mut b_ring);
        assert_eq!((found.qpn, found.srqn), (target.number(), srq.number()));
        assert_eq!(b.bytes(4000, 300), [round + 1; 300]);
    }
    // Too long a message is an event, whose owner is known although no process posts to it.
    receives.post(b.sge(4000, 200));
    sends.post(a.sge(0, 300), None, Some(srq.number()));
    let failed = a.wait(&mut a_ring).status;
    assert_eq!(failed, CompletionStatus::RemoteInvalidRequest.raw());
    pair.b.driver.handle_interrupt(0);
    let mut events = std::iter::from_fn(|| pair.b.driver.poll_event());
    assert!(events.any(|event| (event.object, event.context) == (target.number(), 0x7a)));
}

#[test]
fn a_completion_queue_of_a_process_moves_under_traffic() {
    let pair = pair(Place::Direct);
    let (a, b) = (Process::new(&pair.a), Process::new(&pair.b));
    let (mut a_cq, mut ring) = a.cq(&pair.a, 0xa);
    let (b_cq, _) = b.cq(&pair.b, 0xb);
    let (mut near, mut sends, _) = a.qp(
        &pair.a,
        QpType::Rc,
        &a_cq,
        &UserReceive::Own(a_cq.reference()),
    );
    let (mut far, _, _) = b.qp(
        &pair.b,
        QpType::Rc,
        &b_cq,
        &UserReceive::Own(b_cq.reference()),
    );
    connect(&mut near, &pair.b, far.number());
    connect(&mut far, &pair.a, near.number());
    let (mut posted, mut polled) = (0, 0);
    let before = buffers(&pair);
    for log in [6, 9, 5, 8] {
        for _ in 0..10 {
            sends.post(a.sge(0, 10), Some(b.remote(0)), None);
            posted += 1;
        }
        a.platform.relax(None, a.platform.now() + 1_000_000);
        let memory = a.platform.pin(64 << log);
        let pinned = RegionMemory::Pinned(Arc::clone(&memory));
        let base = a_cq.resize(pinned, log).unwrap();
        assert_eq!((base, a_cq.entries()), (posted, 1 << log));
        ring.moved(&memory, log, base);
        while polled < posted - 3 {
            assert_eq!(a.good(&mut ring).wqe_index, polled);
            polled += 1;
        }
    }
    while polled < posted {
        assert_eq!(a.good(&mut ring).wqe_index, polled);
        polled += 1;
    }
    assert_eq!(ring.poll(), None);
    // Only the last ring is kept: four pages instead of the two of the first.
    assert_eq!(buffers(&pair), before + 2);
    // Too small a memory is refused before the device hears of it, and not kept.
    let small = RegionMemory::Pinned(a.platform.pin(4096));
    assert!(matches!(
        a_cq.resize(small, LOG_CQ),
        Err(Error::BadArgument(_))
    ));
    assert_eq!(buffers(&pair), before + 2);
}

#[test]
fn events_reach_the_owners_of_objects() {
    let pair = pair(Place::Wire);
    let (a, b) = (Process::new(&pair.a), Process::new(&pair.b));
    let (a_cq, mut ring) = a.cq(&pair.a, 0xc0ffee);
    let (b_cq, _) = b.cq(&pair.b, 0xb);
    let (mut near, mut sends, _) = a.qp(
        &pair.a,
        QpType::Rc,
        &a_cq,
        &UserReceive::Own(a_cq.reference()),
    );
    let (mut far, _, _) = b.qp(
        &pair.b,
        QpType::Rc,
        &b_cq,
        &UserReceive::Own(b_cq.reference()),
    );
    connect(&mut near, &pair.b, far.number());
    connect(&mut far, &pair.a, near.number());
    let deliver = || {
        pair.a.driver.handle_interrupt(a_cq.vector());
        a.platform.take_completion_events()
    };
    a_cq.set_moderation(Moderation {
        period: 0,
        count: 2,
    })
    .unwrap();
    ring.arm();
    for expected in [vec![], vec![(a_cq.number(), 0xc0ffee)]] {
        sends.post(a.sge(0, 10), Some(b.remote(0)), None);
        a.platform.relax(None, a.platform.now() + 1_000_000);
        assert_eq!(deliver(), expected);
    }
    assert_eq!(a.good(&mut ring).wqe_index, 0);
    // A key that the peer does not have: both sides fail.
    let nowhere = Remote {
        rkey: 0x1234_5678,
        ..b.remote(0)
    };
    sends.post(a.sge(0, 10), Some(nowhere), None);
    assert_eq!(a.good(&mut ring).wqe_index, 1);
    let failed = a.wait(&mut ring);
    assert_eq!(failed.status, CompletionStatus::RemoteAccess.raw());
    assert_eq!(failed.opcode, CompletionOpcode::Request.raw());
    assert_eq!(failed.flags, CompletionFlags::SEND_QUEUE.bits());
    pair.b.driver.handle_interrupt(0);
    let mut events = std::iter::from_fn(|| pair.b.driver.poll_event());
    let event = events.find(|event| event.event == EventType::QpAccessError);
    let event = event.unwrap();
    assert_eq!((event.object, event.context), (far.number(), 0x9900));
    far.modify_state(QpState::Reset).unwrap();
    far.destroy().unwrap();
}

#[test]
fn every_type_of_queue_pair_can_be_a_users() {
    let pair = pair(Place::Direct);
    let (side, process) = (&pair.a, Process::new(&pair.a));
    let (cq, _) = process.cq(side, 0);
    let before = buffers(&pair);
    let types = [
        QpType::Rc,
        QpType::Uc,
        QpType::Ud,
        QpType::RawPacket,
        QpType::XrcInitiator,
    ];
    for qp_type in types {
        let receive = match qp_type {
            QpType::XrcInitiator => UserReceive::None,
            _ => UserReceive::Own(cq.reference()),
        };
        let (mut qp, ..) = process.qp(side, qp_type, &cq, &receive);
        let attributes = qp.query().unwrap();
        assert_eq!(attributes.state, QpState::Reset.raw());
        qp.modify_state(QpState::Error).unwrap();
        qp.destroy().unwrap();
    }
    let pinned = RegionMemory::Pinned(process.platform.pin(3 * 4096));
    for (qp_type, receive) in [
        (QpType::XrcTarget, UserReceive::None),
        (QpType::XrcInitiator, UserReceive::Own(cq.reference())),
        (QpType::Rc, UserReceive::None),
    ] {
        let config = process.qp_config(qp_type);
        let refused =
            side.driver
                .create_user_qp(&side.pd, &cq.reference(), &receive, pinned.clone(), config);
        assert!(
            matches!(refused.err(), Some(Error::BadArgument(_))),
            "{qp_type:?}"
        );
    }
    let large = UserQpConfig {
        log_send_blocks: LOG_SEND + 1,
        ..process.qp_config(QpType::Rc)
    };
    let receive = UserReceive::Own(cq.reference());
    let refused =
        side.driver
            .create_user_qp(&side.pd, &cq.reference(), &receive, pinned.clone(), large);
    assert!(matches!(refused.err(), Some(Error::BadArgument(_))));
    drop(pinned);
    assert_eq!(buffers(&pair), before);
}

#[test]
fn memory_of_dropped_objects_stays_until_a_reset() {
    let pair = pair(Place::Direct);
    let process = Process::new(&pair.a);
    let before = buffers(&pair);
    let (cq, ring) = process.cq(&pair.a, 0);
    let receive = UserReceive::Own(cq.reference());
    let (qp, sends, receives) = process.qp(&pair.a, QpType::Rc, &cq, &receive);
    let held = buffers(&pair);
    assert!(held > before);
    drop((qp, cq, ring, sends, receives));
    assert_eq!(buffers(&pair), held);
    let Pair { a, b, world } = pair;
    a.driver.recover().unwrap();
    let pair = Pair {
        a: a.renew(),
        b,
        world,
    };
    drop(process);
    assert!(buffers(&pair) <= before);
}
