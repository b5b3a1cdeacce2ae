//! Every transport service, driver on firmware: UC, UD, GSI, and what RC gained.

use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{AddressVector, PathMtu, QpState};
use vrnic_abi::wqe::{FlushExtent, FlushPlacement, WqeFlags, WqeOpcode};
use vrnic_driver::{
    Completion, Data, Datagram, DatagramPath, Operation, Platform, QpConfig, SendRequest, Target,
    Work,
};
use vrnic_tests::wire::Faults;

use crate::pair::{DEPTH, LIMIT, Pair, Place, Side};

const PLACES: [Place; 2] = [Place::Wire, Place::Direct];
/// Bytes before a datagram's data.
const GRH: usize = 40;
const QKEY: u32 = 0x1234_5678;
const PATTERN: u8 = 0xa5;

/// Two sides whose queue pairs are of type `qp_type`, in state RESET.
#[track_caller]
fn sides(place: Place, qp_type: QpType) -> Pair {
    let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
    for side in [&mut pair.a, &mut pair.b] {
        let config = QpConfig {
            qp_type,
            send_requests: DEPTH,
            receive_requests: DEPTH,
            ..QpConfig::default()
        };
        side.qp.destroy().unwrap();
        side.qp = side
            .driver
            .create_qp(&side.pd, &side.cq, &side.cq, config)
            .unwrap();
    }
    pair
}

/// The same for datagrams, ready to send.
#[track_caller]
fn datagrams(place: Place, qp_type: QpType) -> Pair {
    let mut pair = sides(place, qp_type);
    for side in [&mut pair.a, &mut pair.b] {
        side.qp.to_init_datagram(QKEY).unwrap();
        side.qp.to_rtr_datagram().unwrap();
        side.qp.to_rts_datagram(0xff_fff0).unwrap();
    }
    pair
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + seed) as u8).collect()
}

/// Sends `length` bytes of A's memory as a datagram.
#[track_caller]
fn send_datagram(pair: &mut Pair, qkey: u32, path: DatagramPath, length: u32) {
    let sges = [pair.a.sge(0, length)];
    let datagram = Datagram {
        remote_qpn: pair.b.qp.number(),
        qkey,
        path,
    };
    let request = SendRequest {
        wr_id: 7,
        operation: Operation::SendImmediate(0x0102_0304),
        target: Target::Datagram(datagram),
        data: Data::Sges(&sges),
        flags: WqeFlags::SIGNALED,
    };
    pair.a.qp.post_send(&request).unwrap();
}

#[track_caller]
fn only(completions: &[Completion]) -> Completion {
    let [completion] = completions else {
        panic!("one completion, not {completions:?}");
    };
    *completion
}

#[track_caller]
fn good(completions: &[Completion]) -> Completion {
    let completion = only(completions);
    assert_eq!(completion.status, CompletionStatus::Success);
    completion
}

/// Lets the NICs work until they have nothing to do but wait for timers.
fn settle(pair: &Pair) {
    let now = pair.a.driver.platform().now();
    pair.a.driver.platform().relax(None, now + 100_000_000);
}

#[test]
fn unreliable_connections_carry_sends_and_writes() {
    for place in PLACES {
        let mut pair = sides(place, QpType::Uc);
        for side in [&mut pair.a, &mut pair.b] {
            side.qp.to_init(AccessFlags::REMOTE_WRITE).unwrap();
        }
        pair.connect();
        for (round, length) in [0, 1, 1024, 1025, 10_000].into_iter().enumerate() {
            let data = bytes(length, round);
            pair.a.fill(0, &data);
            pair.b.fill(0x8000, &vec![PATTERN; length + 1]);
            let remote = pair.b.remote(0x8000);
            let operations = [
                Operation::Send,
                Operation::WriteImmediate(remote, 9),
                Operation::SendImmediate(9),
            ];
            for operation in operations {
                pair.b.receive(5, 0x8000, length as u32 + 1).unwrap();
                pair.a.send(6, operation, 0, length as u32).unwrap();
                assert_eq!(good(&pair.a.wait()).wr_id, 6);
                let received = good(&pair.b.wait());
                assert_eq!((received.wr_id, received.byte_length), (5, length as u32));
                assert_eq!(
                    pair.b.bytes(0x8000, length),
                    data,
                    "{place:?} {operation:?}"
                );
                assert_eq!(pair.b.bytes(0x8000 + length, 1), [PATTERN]);
                pair.b.fill(0x8000, &vec![PATTERN; length]);
            }
        }
    }
}

#[test]
fn datagrams_arrive_with_where_they_came_from() {
    for (place, qp_type) in PLACES
        .into_iter()
        .flat_map(|place| [QpType::Ud, QpType::Gsi].map(|qp_type| (place, qp_type)))
    {
        let mut pair = datagrams(place, qp_type);
        if qp_type == QpType::Gsi {
            assert_eq!((pair.a.qp.number(), pair.b.qp.number()), (1, 1));
        }
        let vector = pair.b.vector();
        let mut handle = pair.a.driver.create_ah(&pair.a.pd, vector).unwrap();
        assert_eq!(handle.query().unwrap().vector.gid, vector.gid);
        let paths = [
            DatagramPath::Vector(vector),
            DatagramPath::Handle(handle.number()),
        ];
        for (round, path) in paths.into_iter().enumerate() {
            for length in [0, 1, 256, 1024] {
                let data = bytes(length, round);
                pair.a.fill(0, &data);
                pair.b.fill(0x8000, &vec![PATTERN; GRH + length + 1]);
                let room = (GRH + length + 1) as u32;
                pair.b.receive(5, 0x8000, room).unwrap();
                send_datagram(&mut pair, QKEY, path, length as u32);
                assert_eq!(good(&pair.a.wait()).wr_id, 7);
                let found = good(&pair.b.wait());
                let work = Work::Receive(CompletionOpcode::ReceiveImmediate);
                assert_eq!((found.wr_id, found.work), (5, work));
                assert_eq!(found.byte_length as usize, GRH + length);
                assert_eq!(found.immediate, 0x0102_0304);
                assert_eq!(found.source_qpn, pair.a.qp.number());
                let wanted = CompletionFlags::GRH | CompletionFlags::IPV4;
                assert!(found.flags.contains(wanted), "{:?}", found.flags);
                assert_eq!(found.source_mac, pair.a.mac);
                assert_eq!(pair.b.bytes(0x8000 + GRH, length), data);
                assert_eq!(pair.b.bytes(0x8000 + GRH + length, 1), [PATTERN]);
            }
        }
        handle.destroy().unwrap();
    }
}

#[test]
fn datagrams_with_another_key_are_dropped_and_counted() {
    for place in PLACES {
        let mut pair = datagrams(place, QpType::Ud);
        let path = DatagramPath::Vector(pair.b.vector());
        pair.b.receive(5, 0x8000, 200).unwrap();
        send_datagram(&mut pair, QKEY + 1, path, 100);
        good(&pair.a.wait());
        settle(&pair);
        assert_eq!(pair.b.poll(), []);
        let counters = pair.b.driver.counters().unwrap();
        assert_eq!(counters.get(Counter::QkeyViolations), 1, "{place:?}");
        // Bit 31 stands for the key of the queue pair, which may change.
        pair.b.qp.set_qkey(0x99).unwrap();
        pair.a.qp.set_qkey(0x99).unwrap();
        send_datagram(&mut pair, 0x8000_0000, path, 100);
        good(&pair.a.wait());
        assert_eq!(good(&pair.b.wait()).wr_id, 5);
    }
}

#[test]
fn a_send_queue_recovers_from_an_error() {
    let mut pair = datagrams(Place::Wire, QpType::Ud);
    let path = DatagramPath::Vector(pair.b.vector());
    let mut sge = pair.a.sge(0, 10);
    sge.lkey ^= 1;
    let datagram = Datagram {
        remote_qpn: pair.b.qp.number(),
        qkey: QKEY,
        path,
    };
    let request = SendRequest {
        wr_id: 3,
        operation: Operation::Send,
        target: Target::Datagram(datagram),
        data: Data::Sges(&[sge]),
        ..SendRequest::default()
    };
    pair.a.qp.post_send(&request).unwrap();
    let failed = only(&pair.a.wait());
    assert_eq!(
        (failed.wr_id, failed.status),
        (3, CompletionStatus::LocalProtection)
    );
    let state = |pair: &Pair| pair.a.qp.query().unwrap().state;
    assert_eq!(state(&pair), QpState::Sqe.raw());
    // What is posted meanwhile is flushed.
    send_datagram(&mut pair, QKEY, path, 100);
    let flushed = only(&pair.a.wait());
    assert_eq!(
        (flushed.wr_id, flushed.status),
        (7, CompletionStatus::Flushed)
    );
    pair.a.qp.recover_send_queue().unwrap();
    assert_eq!(state(&pair), QpState::Rts.raw());
    pair.b.receive(5, 0x8000, 200).unwrap();
    send_datagram(&mut pair, QKEY, path, 100);
    assert_eq!(good(&pair.a.wait()).wr_id, 7);
    assert_eq!(good(&pair.b.wait()).wr_id, 5);
}

#[test]
fn a_send_queue_drains_and_goes_on() {
    for place in PLACES {
        let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
        let write = |pair: &mut Pair, wr_id| {
            let remote = pair.b.remote(0x8000);
            pair.a
                .send(wr_id, Operation::Write(remote), 0, 20_000)
                .unwrap();
        };
        let drained = (EventType::SendQueueDrained, pair.a.qp.number());
        write(&mut pair, 1);
        pair.a.qp.drain(true).unwrap();
        write(&mut pair, 2);
        let deadline = pair.a.driver.platform().now() + LIMIT;
        let event = loop {
            pair.a.driver.handle_interrupt(0);
            if let Some(event) = pair.a.driver.poll_event() {
                break event;
            }
            let platform = pair.a.driver.platform();
            assert!(platform.now() < deadline, "no event in a minute");
            platform.relax(Some(0), deadline);
        };
        assert_eq!((event.event, event.object), drained);
        settle(&pair);
        // A request that had not started waits.
        let done = pair.a.poll();
        assert!(
            done.iter().all(|completion| completion.wr_id == 1),
            "{done:?}"
        );
        let attributes = pair.a.qp.query().unwrap();
        assert_eq!(
            (attributes.state, attributes.sq_draining),
            (QpState::Sqd.raw(), 0)
        );
        pair.a.qp.resume().unwrap();
        let mut left = 2 - done.len();
        while left > 0 {
            left -= pair.a.wait().len();
        }
    }
}

#[test]
fn atomic_writes_and_flushes_complete_after_the_data_is_there() {
    for place in PLACES {
        let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
        pair.b.fill(0, &[PATTERN; 24]);
        let remote = pair.b.remote(8);
        let value = 0x1122_3344_5566_7788;
        let write = Operation::AtomicWrite { remote, value };
        let flush = Operation::Flush {
            remote,
            length: 8,
            placement: FlushPlacement::GLOBAL,
            extent: FlushExtent::Range,
        };
        for (wr_id, operation) in [(1, write), (2, flush)] {
            let request = SendRequest {
                wr_id,
                operation,
                flags: WqeFlags::SIGNALED,
                ..SendRequest::default()
            };
            pair.a.qp.post_send(&request).unwrap();
        }
        let mut done = Vec::new();
        while done.len() < 2 {
            done.extend(pair.a.wait());
        }
        let found: Vec<_> = done.iter().map(|c| (c.wr_id, c.work, c.status)).collect();
        let success = CompletionStatus::Success;
        let expected = [
            (1, Work::Request(WqeOpcode::AtomicWrite), success),
            (2, Work::Request(WqeOpcode::Flush), success),
        ];
        assert_eq!(found, expected, "{place:?}");
        assert_eq!(pair.b.bytes(8, 8), value.to_le_bytes());
        assert_eq!(pair.b.bytes(0, 8), [PATTERN; 8]);
        assert_eq!(pair.b.bytes(16, 8), [PATTERN; 8]);
        let counters = pair.b.driver.counters().unwrap();
        assert_eq!(counters.get(Counter::RxAtomicWriteRequests), 1);
        assert_eq!(counters.get(Counter::RxFlushRequests), 1);
    }
}

impl Side {
    /// Where datagrams to this side go.
    fn vector(&self) -> AddressVector {
        AddressVector {
            gid: self.gid,
            mac: self.mac,
            ..AddressVector::default()
        }
    }
}
