//! Shared receive queues and XRC, driver on firmware.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{AddressVector, PathMtu, QpState};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    AsyncEvent, Completion, Connection, CqConfig, Data, Datagram, DatagramPath, Operation,
    Platform, PostError, QpConfig, QueuePair, ReceiveRequest, SendRequest, SharedReceiveQueue,
    SrqConfig, Target,
};
use vrnic_tests::platform::SimPlatform;
use vrnic_tests::wire::Faults;

use crate::pair::{DEPTH, LIMIT, Pair, Place, Side};

type Qp = QueuePair<SimPlatform>;
type Srq = SharedReceiveQueue<SimPlatform>;

const PLACES: [Place; 2] = [Place::Wire, Place::Direct];
const SUCCESS: CompletionStatus = CompletionStatus::Success;
/// Bytes of a receive buffer.
const ROOM: usize = 4096;
const PATTERN: u8 = 0xa5;

#[track_caller]
fn pair(place: Place, faults: Faults, seed: u64) -> Pair {
    Pair::new(place, faults, seed, PathMtu::Mtu1024)
}

#[track_caller]
fn srq(side: &Side, requests: u32) -> Srq {
    let config = SrqConfig {
        requests,
        ..SrqConfig::default()
    };
    side.driver.create_srq(&side.pd, config).unwrap()
}

fn config() -> QpConfig {
    QpConfig {
        send_requests: DEPTH,
        receive_requests: 1,
        ..QpConfig::default()
    }
}

/// How to reach queue pair `qpn` of `peer`.
fn connection(peer: &Side, qpn: u32) -> Connection {
    Connection {
        remote_qpn: qpn,
        path: vector(peer),
        timeout: 8,
        min_rnr_timer: 1,
        ..Connection::default()
    }
}

fn vector(side: &Side) -> AddressVector {
    AddressVector {
        gid: side.gid,
        mac: side.mac,
        ..AddressVector::default()
    }
}

/// A queue pair of A's that is connected to one of B's with `srq`.
#[track_caller]
fn connect(pair: &Pair, srq: &Srq) -> (Qp, Qp) {
    let (a, b) = (&pair.a, &pair.b);
    let near = a.driver.create_qp(&a.pd, &a.cq, &a.cq, config());
    let (pd, cq) = (&b.pd, &b.cq);
    let far = b.driver.create_qp_with_srq(pd, cq, cq, srq, config());
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let numbers = (near.number(), far.number());
    for (qp, peer, qpn) in [(&mut near, b, numbers.1), (&mut far, a, numbers.0)] {
        qp.to_init(AccessFlags::REMOTE_WRITE).unwrap();
        let connection = connection(peer, qpn);
        qp.to_rtr(&connection).unwrap();
        qp.to_rts(&connection).unwrap();
    }
    (near, far)
}

/// Posts buffer `slot` of B's memory.
fn post(srq: &mut Srq, side: &Side, slot: usize) -> Result<(), PostError> {
    let sges = [side.sge(slot * ROOM, ROOM as u32)];
    srq.post(&ReceiveRequest {
        wr_id: slot as u64,
        sges: &sges,
    })
}

/// Sends the `length` bytes at the beginning of A's memory slot `slot`.
#[track_caller]
fn send(qp: &mut Qp, side: &Side, slot: usize, length: usize, target: Target) {
    let sges = [side.sge(slot * ROOM, length as u32)];
    let request = SendRequest {
        wr_id: slot as u64,
        operation: Operation::Send,
        target,
        data: Data::Sges(&sges),
        flags: WqeFlags::SIGNALED,
    };
    qp.post_send(&request).unwrap();
}

/// The next asynchronous event of a side's.
#[track_caller]
fn event(side: &Side) -> AsyncEvent {
    let deadline = side.driver.platform().now() + LIMIT;
    loop {
        side.driver.handle_interrupt(0);
        match side.driver.poll_event() {
            Some(event) if event.event == EventType::CommunicationEstablished => {}
            Some(event) => return event,
            None => {
                let platform = side.driver.platform();
                assert!(platform.now() < deadline, "no event in a minute");
                platform.relax(Some(0), deadline);
            }
        }
    }
}

#[track_caller]
fn good(completions: &[Completion]) -> Completion {
    let [completion] = completions else {
        panic!("one completion, not {completions:?}");
    };
    assert_eq!(completion.status, SUCCESS);
    *completion
}

/// Three queue pairs send to one shared receive queue.
fn share(place: Place, faults: Faults, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut pair = pair(place, faults, seed);
    let mut srq = srq(&pair.b, 8);
    let mut links: Vec<_> = (0..3).map(|_| connect(&pair, &srq)).collect();
    let mut expected: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for round in 0..10 {
        for slot in 0..8 {
            pair.b.fill(slot * ROOM, &[PATTERN; ROOM]);
            post(&mut srq, &pair.b, slot).unwrap();
        }
        assert_eq!(post(&mut srq, &pair.b, 8), Err(PostError::QueueFull));
        for slot in 0..8 {
            let mut data = vec![0; random.random_range(0..ROOM)];
            random.fill(data.as_mut_slice());
            pair.a.fill(slot * ROOM, &data);
            let index = random.random_range(0..links.len());
            let (near, far) = &mut links[index];
            send(near, &pair.a, slot, data.len(), Target::Peer);
            expected.entry(far.number()).or_default().push(data);
        }
        let (mut sent, mut received) = (0, 0);
        while sent < 8 {
            for completion in pair.a.wait() {
                assert_eq!(completion.status, SUCCESS, "seed {seed}, round {round}");
                sent += 1;
            }
        }
        while received < 8 {
            for completion in pair.b.wait() {
                assert_eq!(completion.status, SUCCESS, "seed {seed}, round {round}");
                assert_eq!(completion.srqn, srq.number());
                // Messages of one queue pair are in order, whatever buffers they took.
                let data = expected.get_mut(&completion.qpn).unwrap().remove(0);
                let slot = completion.wr_id as usize;
                assert_eq!(completion.byte_length as usize, data.len());
                let found = pair.b.bytes(slot * ROOM, ROOM);
                assert!(found[..data.len()] == data, "seed {seed}: wrong data");
                let guard = found[data.len()..].iter().copied();
                assert!(guard.into_iter().all(|byte| byte == PATTERN));
                received += 1;
            }
        }
        assert_eq!(srq.outstanding(), 0, "seed {seed}");
    }
}

#[test]
fn queue_pairs_share_receives() {
    for seed in 0..4 {
        share(Place::Direct, Faults::default(), seed);
        share(Place::Wire, Faults::default(), seed);
    }
}

#[test]
fn queue_pairs_share_receives_over_a_bad_wire() {
    let bad = Faults {
        lose: 20,
        duplicate: 20,
        reorder: 20,
        corrupt: 20,
    };
    for seed in 0..8 {
        share(Place::Wire, bad, seed);
    }
}

#[test]
fn a_limit_is_reported_once() {
    let mut pair = pair(Place::Direct, Faults::default(), 1);
    let mut srq = srq(&pair.b, 4);
    let (mut near, _far) = connect(&pair, &srq);
    for slot in 0..4 {
        post(&mut srq, &pair.b, slot).unwrap();
    }
    srq.set_limit(3).unwrap();
    assert_eq!(srq.query().unwrap().limit, 3);
    for slot in 0..2 {
        send(&mut near, &pair.a, slot, 10, Target::Peer);
        good(&pair.a.wait());
        good(&pair.b.wait());
    }
    let found = event(&pair.b);
    assert_eq!(
        (found.event, found.object),
        (EventType::SrqLimit, srq.number())
    );
    let attributes = srq.query().unwrap();
    assert_eq!((attributes.limit, attributes.consumer), (0, 2));
    send(&mut near, &pair.a, 2, 10, Target::Peer);
    good(&pair.b.wait());
    pair.b.driver.handle_interrupt(0);
    assert_eq!(pair.b.driver.poll_event(), None);
}

#[test]
fn the_last_request_of_a_failed_queue_pair_is_reported() {
    let pair = pair(Place::Direct, Faults::default(), 1);
    let mut srq = srq(&pair.b, 4);
    let (_near, mut far) = connect(&pair, &srq);
    post(&mut srq, &pair.b, 0).unwrap();
    far.modify_state(QpState::Error).unwrap();
    let found = event(&pair.b);
    let expected = (EventType::LastWqeReached, far.number());
    assert_eq!((found.event, found.object), expected);
    // What nobody has taken stays for others.
    assert_eq!(srq.outstanding(), 1);
    assert!(srq.destroy().is_err(), "in use");
    far.destroy().unwrap();
    srq.destroy().unwrap();
}

#[test]
fn a_queue_pair_that_is_destroyed_in_a_message_gives_its_request_back() {
    let mut pair = pair(Place::Wire, Faults::default(), 1);
    let mut srq = srq(&pair.b, 4);
    let (mut near, mut far) = connect(&pair, &srq);
    post(&mut srq, &pair.b, 0).unwrap();
    // A message of four packets, of which few arrive.
    send(&mut near, &pair.a, 0, ROOM, Target::Peer);
    let deadline = pair.a.driver.platform().now() + LIMIT;
    while srq.query().unwrap().consumer == 0 {
        let platform = pair.a.driver.platform();
        assert!(platform.now() < deadline, "nothing arrives");
        platform.relax(None, platform.now() + 100);
    }
    far.destroy().unwrap();
    pair.b.poll();
    assert_eq!(srq.outstanding(), 0);
    srq.destroy().unwrap();
    near.destroy().unwrap();
}

#[test]
fn datagrams_take_from_a_shared_queue() {
    for place in PLACES {
        let mut pair = pair(place, Faults::default(), 1);
        let mut srq = srq(&pair.b, 4);
        let ud = QpConfig {
            qp_type: QpType::Ud,
            ..config()
        };
        let (a, b) = (&pair.a, &pair.b);
        let near = a.driver.create_qp(&a.pd, &a.cq, &a.cq, ud);
        let (pd, cq) = (&b.pd, &b.cq);
        let far = b.driver.create_qp_with_srq(pd, cq, cq, &srq, ud);
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        for qp in [&mut near, &mut far] {
            qp.to_init_datagram(5).unwrap();
            qp.to_rtr_datagram().unwrap();
            qp.to_rts_datagram(0).unwrap();
        }
        pair.a.fill(0, &[3; 100]);
        post(&mut srq, &pair.b, 1).unwrap();
        let datagram = Datagram {
            remote_qpn: far.number(),
            qkey: 5,
            path: DatagramPath::Vector(vector(&pair.b)),
        };
        send(&mut near, &pair.a, 0, 100, Target::Datagram(datagram));
        good(&pair.a.wait());
        let found = good(&pair.b.wait());
        assert_eq!((found.wr_id, found.srqn), (1, srq.number()));
        assert_eq!(pair.b.bytes(ROOM + 40, 100), [3; 100]);
    }
}

#[test]
fn an_xrc_initiator_reaches_any_queue_of_the_domain() {
    for place in PLACES {
        let mut pair = pair(place, Faults::default(), 1);
        let (a, b) = (&pair.a, &pair.b);
        let mut xrcd = b.driver.create_xrcd().unwrap();
        let mut cqs: Vec<_> = (0..2)
            .map(|_| b.driver.create_cq(CqConfig::default()).unwrap())
            .collect();
        let requests = SrqConfig {
            requests: 4,
            ..SrqConfig::default()
        };
        let srq = |cq| b.driver.create_xrc_srq(&b.pd, &xrcd, cq, requests).unwrap();
        let mut srqs: Vec<Srq> = cqs.iter().map(srq).collect();
        let mut initiator = a
            .driver
            .create_xrc_initiator(&a.pd, &a.cq, config())
            .unwrap();
        let mut target = b.driver.create_xrc_target(Some(&b.pd), &xrcd, 0).unwrap();
        initiator.to_init(AccessFlags::empty()).unwrap();
        target.to_init(AccessFlags::REMOTE_WRITE).unwrap();
        let there = connection(b, target.number());
        let back = connection(a, initiator.number());
        target.to_rtr(&back).unwrap();
        initiator.to_rtr(&there).unwrap();
        initiator.to_rts(&there).unwrap();
        target.to_rts(&back).unwrap();
        for round in 0..8 {
            let (chosen, slot) = (round % 2, round + 1);
            let data = vec![round as u8 + 1; 3000];
            pair.a.fill(0, &data);
            pair.b.fill(slot * ROOM, &[PATTERN; ROOM]);
            post(&mut srqs[chosen], &pair.b, slot).unwrap();
            let number = srqs[chosen].number();
            let target_srq = Target::SharedReceiveQueue(number);
            send(&mut initiator, &pair.a, 0, data.len(), target_srq);
            good(&pair.a.wait());
            let mut found = [Completion::default(); 2];
            let deadline = pair.b.driver.platform().now() + LIMIT;
            while cqs[chosen].poll(&mut found).unwrap() == 0 {
                let platform = pair.b.driver.platform();
                assert!(platform.now() < deadline, "nothing completes");
                platform.relax(None, platform.now() + 1000);
            }
            assert_eq!(found[0].status, SUCCESS);
            assert_eq!((found[0].wr_id, found[0].srqn), (slot as u64, number));
            assert_eq!(found[0].qpn, target.number());
            assert_eq!(cqs[1 - chosen].poll(&mut found), Ok(0));
            assert_eq!(pair.b.bytes(slot * ROOM, 3000), data, "{place:?}");
            assert_eq!(pair.b.bytes(slot * ROOM + 3000, 1), [PATTERN]);
        }
        initiator.destroy().unwrap();
        target.destroy().unwrap();
        for mut srq in srqs {
            srq.destroy().unwrap();
        }
        xrcd.destroy().unwrap();
        for cq in &mut cqs {
            cq.destroy().unwrap();
        }
    }
}
