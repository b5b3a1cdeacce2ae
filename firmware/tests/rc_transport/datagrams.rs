//! Unreliable datagrams (IBTA volume 1, 9.8.3) and raw Ethernet frames.

use crate::bench::*;
use crate::rules::*;

fn to(qpn: u32, qkey: u32) -> Remote {
    Remote::Datagram(DatagramTarget {
        qpn: Qpn::new(qpn),
        qkey,
        route: Route::Handle(HANDLE),
    })
}

mod sending {
    use super::*;

    #[test]
    fn each_goes_to_its_own_destination() {
        for kind in [Kind::Ud, Kind::Gsi] {
            let mut solo = Solo::of(kind);
            solo.node.number(0, 300);
            solo.post_to(to(0x33, 7), 1, SEND, 0, 256);
            // With the high bit, the key is that of the queue pair.
            solo.post_to(to(0x44, 1 << 31), 2, SEND, 3, 10);
            let packets = solo.run();
            let got: Vec<_> = packets
                .iter()
                .map(|packet| (packet.pdu.destination.get(), packet.pdu.service))
                .collect();
            let source = Qpn::new(0x11);
            assert_eq!(
                got,
                [
                    (0x33, Service::Datagram { qkey: 7, source }),
                    (0x44, Service::Datagram { qkey: QKEY, source }),
                ]
            );
            assert_eq!(packets[1].payload, solo.node.bytes(3, 10));
            assert_sends(&solo, &[Outcome::Success; 2]);
        }
    }

    #[test]
    fn refusals_leave_the_send_queue_in_error() {
        let nowhere = Remote::Datagram(DatagramTarget {
            qpn: Qpn::new(1),
            qkey: 0,
            route: Route::Handle(99),
        });
        let cases = [
            (nowhere, SEND, 1, Outcome::LocalQpOperation),
            (to(1, 0), SEND, 257, Outcome::LocalLength),
            (to(1, 0), write_operation(0), 1, Outcome::LocalQpOperation),
            (to(1, 0), read_operation(0), 1, Outcome::LocalQpOperation),
            (Remote::Peer, SEND, 1, Outcome::LocalQpOperation),
            (to(1, 0), SEND, 65 << 10, Outcome::LocalLength),
        ];
        for (remote, operation, length, outcome) in cases {
            let mut solo = Solo::of(Kind::Ud);
            solo.post_to(remote, 1, operation, 0, length);
            solo.post_to(to(1, 0), 2, SEND, 0, 1);
            assert!(solo.run().is_empty(), "{operation:?}");
            assert_sends(&solo, &[outcome, Outcome::Flushed]);
            assert_eq!(solo.qp.state(), State::Sqe);
        }
    }
}

mod receiving {
    use super::*;

    #[test]
    fn the_route_header_comes_first() {
        let mut solo = Solo::of(Kind::Ud);
        solo.node.post_receive(1, 100, 50);
        solo.request(9, send(Place::Only), b"0123456789");
        assert_eq!(solo.node.bytes(100, 40), [HEADER; 40]);
        assert_eq!(solo.node.bytes(140, 11), b"0123456789\xee");
        let done = solo.node.received[0];
        let kind = ReceiveKind::Datagram {
            tail: SendTail::None,
            source: Qpn::new(0x22),
        };
        assert_eq!((done.bytes, done.kind), (50, kind));
    }

    #[test]
    fn it_is_no_longer_than_the_port_allows() {
        for kind in [Kind::Ud, Kind::Gsi] {
            let mut solo = Solo::of(kind);
            solo.node.post_receive(1, 0, 400);
            solo.request(0, send(Place::Only), &[9; 257]);
            assert!(solo.node.received.is_empty());
            assert_eq!(solo.node.bytes(0, 400), [PATTERN; 400]);
            assert_eq!(solo.node.counter(Counter::RxUnreliableInvalid), 1);
            solo.request(1, send(Place::Only), &[9; 256]);
            assert_eq!(solo.node.received[0].bytes, 296);
        }
    }

    #[test]
    fn it_is_scattered_over_any_pieces() {
        let mut solo = Solo::of(Kind::Ud);
        solo.node.receives.push_back(ReceiveWork {
            domain: Default::default(),
            cookie: 1,
            sges: [sge(0, 39), sge(100, 2), sge(200, 9)].into_iter().collect(),
            invalid: None,
        });
        solo.request(0, send(Place::Only), b"0123456789");
        assert_eq!(
            solo.node.bytes(0, 40),
            [[HEADER; 39].as_slice(), &[PATTERN]].concat()
        );
        assert_eq!(solo.node.bytes(100, 3), [HEADER, b'0', PATTERN]);
        assert_eq!(solo.node.bytes(200, 10), b"123456789\xee");
    }

    #[test]
    fn what_cannot_be_received_is_counted_and_the_receive_stays() {
        let mut solo = Solo::of(Kind::Ud);
        solo.request(0, send(Place::Only), b"x");
        assert_eq!(solo.node.counter(Counter::RxUnreliableNoReceive), 1);
        solo.node.post_receive(1, 0, 49);
        solo.request(0, send(Place::Only), b"0123456789");
        assert_eq!(solo.node.counter(Counter::RxUnreliableTooLong), 1);
        let mut wrong = packet(Psn::new(0), 1, send(Place::Only), b"x");
        wrong.pdu.service = Service::Datagram {
            qkey: QKEY + 1,
            source: Qpn::new(5),
        };
        solo.deliver(&wrong);
        assert_eq!(solo.node.counter(Counter::QkeyViolations), 1);
        assert!(solo.node.memory.iter().all(|byte| *byte == PATTERN));
        solo.request(0, send(Place::Only), b"012345678");
        assert_receives(&solo, &[Outcome::Success]);
    }

    #[test]
    fn the_owners_mistake_breaks_the_queue_pair() {
        for (offset, length) in [(64 << 10, 100), ((64 << 10) - 40, 100)] {
            let mut solo = Solo::of(Kind::Ud);
            solo.node.post_receive(1, offset, length);
            solo.request(0, send(Place::Only), b"abc");
            assert_receives(&solo, &[Outcome::LocalProtection]);
            assert_broken(&mut solo);
        }
    }
}

mod frames {
    use super::*;

    #[test]
    fn leave_as_they_are_with_what_is_to_be_done_to_them() {
        let mut solo = Solo::of(Kind::Raw);
        solo.node.number(0, 100);
        let offload = Offload {
            ip_checksum: true,
            transport_checksum: false,
            vlan_tag: Some(0x2005),
        };
        solo.post_to(Remote::Frame(offload), 1, SEND, 5, 60);
        assert!(solo.run().is_empty());
        assert_eq!(
            solo.node.frames,
            [(offload, solo.node.bytes(5, 60).to_vec())]
        );
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn of_impossible_lengths_are_refused() {
        for length in [0, 13, 1519] {
            let mut solo = Solo::of(Kind::Raw);
            solo.post_to(Remote::Frame(Offload::default()), 1, SEND, 0, length);
            solo.run();
            assert_sends(&solo, &[Outcome::LocalLength]);
            assert!(solo.node.frames.is_empty());
        }
    }

    #[test]
    fn are_received_whole_or_not_at_all() {
        let mut solo = Solo::of(Kind::Raw);
        solo.frame(b"lost");
        solo.node.post_receive(1, 0, 20);
        solo.frame(&[7; 21]);
        assert_eq!(solo.node.counter(Counter::RxFrameNoReceive), 2);
        assert_eq!(solo.node.bytes(0, 21), [PATTERN; 21]);
        solo.frame(&[7; 20]);
        assert_eq!(
            solo.node.bytes(0, 21),
            [[7; 20].as_slice(), &[PATTERN]].concat()
        );
        let done = solo.node.received[0];
        assert_eq!((done.bytes, done.kind), (20, ReceiveKind::Frame));
        assert_eq!(solo.node.counter(Counter::RxFrames), 1);
    }

    #[test]
    fn reach_no_queue_pair_of_another_type() {
        let mut solo = Solo::of(Kind::Ud);
        solo.node.post_receive(1, 0, 100);
        solo.frame(&[7; 20]);
        assert_eq!(solo.node.counter(Counter::RxBadState), 1);
        assert!(solo.node.received.is_empty());
    }
}
