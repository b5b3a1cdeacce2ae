//! Unreliable connections (IBTA volume 1, 9.8.2).

use crate::bench::*;
use crate::rules::*;

fn write(place: Place, target: Option<RemoteRange>) -> Body {
    Body::Write {
        place,
        target,
        immediate: None,
    }
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|i| mark(i as u64 + 7)).collect()
}

mod sending {
    use super::*;

    #[test]
    fn a_message_is_complete_when_it_is_sent() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.number(0, 600);
        solo.post(1, SEND, 0, 600);
        solo.post(2, write_operation(0x100), 0, 0);
        let packets = solo.run();
        let places: Vec<_> = packets.iter().map(|packet| packet.pdu).collect();
        assert!(
            places
                .iter()
                .all(|pdu| pdu.service == Service::Unreliable && !pdu.ack_request)
        );
        let psns: Vec<_> = places.iter().map(|pdu| pdu.psn.get()).collect();
        assert_eq!(psns, [1000, 1001, 1002, 1003]);
        assert_eq!(places[3].body, write(Place::Only, Some(range(0x100, 0))));
        let sent: Vec<u8> = packets.iter().flat_map(|p| p.payload.clone()).collect();
        assert_eq!(sent, solo.node.bytes(0, 600));
        assert_sends(&solo, &[Outcome::Success; 2]);
        assert_eq!(solo.qp.deadline(), None);
    }

    /// Between two queue pairs of a process the data is still to be copied when the call returns.
    #[test]
    fn on_the_direct_path_it_is_complete_a_call_later() {
        let mut solo = Solo::rts(Setup {
            burst: 64,
            ..Setup::of(Kind::Uc)
        });
        solo.post(1, SEND, 0, 600);
        assert_eq!(solo.poll_once(), 1);
        assert!(solo.node.sent.is_empty() && solo.qp.has_work());
        assert_eq!(solo.out[0].pdu.packets, 3);
        solo.poll_once();
        assert_sends(&solo, &[Outcome::Success]);
        assert!(!solo.qp.has_work());
    }

    /// What was sent before a failure is not complete earlier than otherwise.
    #[test]
    fn on_the_direct_path_an_error_waits_for_what_was_sent() {
        for broken in [false, true] {
            let mut solo = Solo::rts(Setup {
                burst: 64,
                ..Setup::of(Kind::Uc)
            });
            solo.post(1, SEND, 0, 600);
            solo.post(2, read_operation(0), 0, 8);
            solo.post(3, SEND, 0, 8);
            solo.poll_once();
            assert!(solo.node.sent.is_empty() && solo.qp.has_work());
            let second = if broken {
                solo.modify(Modify::to(State::Error)).unwrap();
                assert!(solo.node.sent.is_empty() && solo.qp.has_work());
                Outcome::Flushed
            } else {
                Outcome::LocalQpOperation
            };
            solo.run();
            assert_sends(&solo, &[Outcome::Success, second, Outcome::Flushed]);
        }
    }

    #[test]
    fn without_room_it_waits() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.room = 2;
        solo.post(1, SEND, 0, 600);
        assert_eq!(solo.poll_once(), 2);
        assert!(solo.node.sent.is_empty() && solo.qp.has_work());
        solo.node.room = 3;
        assert_eq!(solo.poll_once(), 3);
        assert_eq!(solo.out[2].pdu.length, 88);
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn what_the_service_lacks_leaves_the_send_queue_in_error() {
        let others = [
            read_operation(0),
            atomic(0, AtomicOperation::FetchAdd(1)),
            SendOperation::Send(SendTail::Invalidate(1)),
            SendOperation::AtomicWrite {
                address: BASE,
                rkey: KEY,
                value: [1; 8],
            },
        ];
        for operation in others {
            let mut solo = Solo::of(Kind::Uc);
            solo.post(1, SEND, 0, 1);
            solo.post(2, operation, 0, 8);
            solo.post(3, SEND, 0, 1);
            solo.node.post_receive(9, 0, 10);
            assert_eq!(solo.run().len(), 1);
            let outcomes = [
                Outcome::Success,
                Outcome::LocalQpOperation,
                Outcome::Flushed,
            ];
            assert_sends(&solo, &outcomes);
            assert_eq!(solo.qp.state(), State::Sqe);
            // The receive queue goes on, and the send queue can be recovered.
            solo.request(0, send(Place::Only), b"abc");
            assert_receives(&solo, &[Outcome::Success]);
            solo.modify(Modify::to(State::Rts)).unwrap();
            solo.post(4, SEND, 0, 1);
            assert_eq!(solo.sent_psns(), [1]);
        }
    }

    #[test]
    fn a_bad_key_ends_in_sqe_too() {
        let mut solo = Solo::of(Kind::Uc);
        let mut bad = work(1, SEND, 0, 600);
        bad.sges[0].lkey = 0x999;
        solo.node.sends.push_back(bad);
        solo.qp.post_notify();
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::LocalProtection]);
        assert_eq!(solo.qp.state(), State::Sqe);
    }

    #[test]
    fn a_reliable_queue_pair_has_no_sqe() {
        let mut solo = Solo::new();
        let refused = solo.modify(Modify::to(State::Sqe));
        assert_eq!(refused, Err(ModifyError::Transition));
    }
}

mod receiving {
    use super::*;

    #[test]
    fn a_message_is_placed_and_nothing_is_answered() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 100, 700);
        let data = data(600);
        solo.request(0, send(Place::First), &data[..256]);
        solo.request(1, send(Place::Middle), &data[256..512]);
        let tail = SendTail::Immediate(5);
        let place = Place::Last;
        solo.request(2, Body::Send { place, tail }, &data[512..]);
        assert_eq!(solo.node.bytes(100, 600), data);
        assert_eq!(solo.node.bytes(700, 100), [PATTERN; 100]);
        let done = solo.node.received[0];
        assert_eq!((done.bytes, done.kind), (600, ReceiveKind::Send(tail)));
        assert!(solo.run().is_empty());
    }

    /// Whichever packet of a message is lost, the message is, and the next one arrives.
    #[test]
    fn a_lost_packet_loses_its_message_only() {
        for lost in 0..3 {
            let mut solo = Solo::of(Kind::Uc);
            solo.node.post_receive(1, 100, 700);
            let data = data(600);
            let places = [Place::First, Place::Middle, Place::Last];
            for (n, place) in places.into_iter().enumerate().filter(|(n, _)| *n != lost) {
                let end = (n * 256 + 256).min(600);
                solo.request(n as i32, send(place), &data[n * 256..end]);
            }
            assert!(solo.node.received.is_empty(), "packet {lost}");
            solo.request(3, send(Place::Only), b"next");
            assert_eq!(solo.node.received[0].bytes, 4);
            assert_eq!(solo.node.bytes(100, 4), b"next");
            assert!(solo.node.receives_handed.is_empty());
            assert_eq!(solo.node.counter(Counter::OutOfSequence), 1);
            assert_eq!(solo.qp.state(), State::Rts);
        }
    }

    #[test]
    fn a_message_that_starts_anew_ends_the_one_before() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 0, 700);
        solo.request(0, send(Place::First), &data(256));
        solo.request(1, write(Place::Only, Some(range(0x800, 3))), b"abc");
        solo.request(2, send(Place::Last), b"x");
        solo.request(3, send(Place::Only), b"y");
        assert_eq!(solo.node.bytes(0x800, 4), b"abc\xee");
        assert_receives(&solo, &[Outcome::Success]);
        assert_eq!(solo.node.received[0].bytes, 1);
        assert_eq!(solo.node.counter(Counter::RxUnreliableLost), 1, "the rest");
    }

    #[test]
    fn without_a_receive_the_message_is_dropped() {
        let mut solo = Solo::of(Kind::Uc);
        solo.request(0, send(Place::First), &data(256));
        solo.node.post_receive(1, 0, 700);
        solo.request(1, send(Place::Last), b"x");
        solo.request(2, send(Place::Only), b"y");
        assert_eq!(solo.node.counter(Counter::RxUnreliableNoReceive), 1);
        assert_eq!(solo.node.received[0].bytes, 1);
        assert_eq!(solo.node.bytes(0, 2), b"y\xee");
    }

    #[test]
    fn what_is_too_long_is_dropped_and_the_receive_stays() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 0, 4);
        solo.request(0, send(Place::Only), b"12345");
        assert!(solo.node.received.is_empty());
        assert_eq!(solo.node.bytes(0, 5), [PATTERN; 5]);
        solo.request(1, send(Place::Only), b"1234");
        assert_receives(&solo, &[Outcome::Success]);
        assert_eq!(solo.node.counter(Counter::RxUnreliableTooLong), 1);
    }

    #[test]
    fn of_a_shared_queue_what_is_too_long_uses_it_up() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.shared = true;
        solo.node.post_receive(1, 0, 4);
        solo.request(0, send(Place::Only), b"12345");
        assert_receives(&solo, &[Outcome::LocalLength]);
        assert_eq!(solo.qp.state(), State::Rts);
    }

    #[test]
    fn writes_stay_inside_their_region_and_their_length() {
        let cases: [(Body, usize); 7] = [
            (write(Place::Only, Some(range(64 << 10, 1))), 1),
            (write(Place::Only, Some(range(0, 3))), 4),
            (write(Place::Only, Some(range(0, 5))), 4),
            (write(Place::First, Some(range((64 << 10) - 256, 257))), 256),
            (write(Place::First, Some(range(0, 256))), 256),
            (write(Place::First, Some(range(0, 1000))), 255),
            (write(Place::Only, None), 0),
        ];
        for (body, length) in cases {
            let mut solo = Solo::of(Kind::Uc);
            solo.request(0, body, &data(length));
            assert!(
                solo.node.memory.iter().all(|byte| *byte == PATTERN),
                "{body:?}"
            );
            assert_eq!(solo.node.counter(Counter::RxUnreliableInvalid), 1);
            assert!(solo.run().is_empty() && solo.node.events.is_empty());
            assert_eq!(solo.qp.state(), State::Rts);
        }
        let mut solo = Solo::rts(Setup {
            access: Access::empty(),
            ..Setup::of(Kind::Uc)
        });
        solo.request(0, write(Place::Only, Some(range(0, 1))), b"x");
        assert_eq!(solo.node.bytes(0, 1), [PATTERN]);
    }

    #[test]
    fn a_write_with_immediate_data_takes_a_receive_at_its_end() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 0x8000, 0);
        let data = data(300);
        solo.request(0, write(Place::First, Some(range(16, 300))), &data[..256]);
        let last = Body::Write {
            place: Place::Last,
            target: None,
            immediate: Some(0x77),
        };
        solo.request(1, last, &data[256..]);
        assert_eq!(solo.node.bytes(16, 300), data);
        let done = solo.node.received[0];
        assert_eq!((done.bytes, done.kind), (300, ReceiveKind::Write(0x77)));
    }

    #[test]
    fn the_owners_mistake_breaks_the_queue_pair() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 64 << 10, 10);
        solo.node.post_receive(2, 0, 10);
        solo.request(0, send(Place::Only), b"abc");
        assert_receives(&solo, &[Outcome::LocalProtection, Outcome::Flushed]);
        assert_broken(&mut solo);
    }

    #[test]
    fn packets_of_other_services_are_counted() {
        let mut solo = Solo::of(Kind::Uc);
        solo.node.post_receive(1, 0, 10);
        for service in [
            Service::Reliable,
            Service::Extended { srqn: SRQN },
            Service::Datagram {
                qkey: 0,
                source: Qpn::new(1),
            },
        ] {
            let mut packet = packet(Psn::new(2000), 1, send(Place::Only), b"abc");
            packet.pdu.service = service;
            solo.deliver(&packet);
        }
        assert_eq!(solo.node.counter(Counter::RxWrongService), 3);
        assert!(solo.node.received.is_empty());
    }
}
