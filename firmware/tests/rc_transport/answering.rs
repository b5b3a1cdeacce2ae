//! READ and atomic operations, and duplicates of all kinds.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;
use vrnic_firmware::transport::{LocalOperation, SendOperation};

mod read {
    use super::*;

    #[test]
    fn places_the_responses() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(4096), 10, 600);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1);
        let source = range(4096, 600);
        assert_eq!(pdus[0].body, Body::Read { source });
        solo.response(0, read_response(Place::First), &[1; 256]);
        solo.response(1, read_response(Place::Middle), &[2; 256]);
        assert!(solo.node.sent.is_empty());
        solo.response(2, read_response(Place::Last), &[3; 88]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 600)]);
        assert_eq!(solo.node.bytes(10, 256), [1; 256]);
        assert_eq!(solo.node.bytes(522, 88), [3; 88]);
        assert_eq!(solo.node.bytes(610, 8), [PATTERN; 8]);
        assert_eq!(solo.qp.deadline(), None);
    }

    #[test]
    fn takes_the_sequence_numbers_of_its_responses() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 1000);
        solo.post(2, SEND, 0, 1);
        assert_eq!(solo.sent_psns(), [0, 4]);
    }

    /// At the smallest MTU the largest READ takes half of all sequence numbers.
    #[test]
    fn of_the_largest_size_keeps_others_from_starting() {
        let mut solo = Solo::new();
        let large = Region {
            start: BASE,
            length: 1 << 33,
            access: Access::all(),
        };
        solo.node.regions.insert(8, large);
        let mut read = work(1, read_operation(0), 0, 1 << 31);
        read.sges[0].lkey = 8;
        solo.node.sends.push_back(read);
        solo.post(2, SEND, 0, 1);
        assert_eq!(solo.sent_psns(), [0]);
        assert!(!solo.qp.has_work());
        solo.response(0, read_response(Place::First), &[1; 256]);
        assert_eq!(solo.sent_psns(), [-(1 << 23)], "half of the space ahead");
        // The peer's half: the next request is expected after all responses, and what was seen
        // is a duplicate.
        let source = RemoteRange {
            rkey: 8,
            ..range(0, 1 << 31)
        };
        solo.node.room = 1;
        solo.request(0, Body::Read { source }, &[]);
        assert_eq!(
            solo.qp.attributes().receive_psn.since(Psn::new(2000)),
            -(1 << 23)
        );
        solo.request(0, Body::Read { source }, &[]);
        assert_eq!(solo.node.counter(Counter::DuplicateRequest), 1);
        assert_eq!(solo.poll_once(), 1);
    }

    #[test]
    fn response_acknowledges_what_was_before() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.run();
        solo.response(1, read_response(Place::Only), &[1]);
        assert_sends(&solo, &[Outcome::Success; 2]);
    }

    #[test]
    fn missing_responses_are_asked_for_again() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(4096), 0, 4 * MTU);
        solo.run();
        solo.response(0, read_response(Place::First), &[1; 256]);
        solo.response(2, read_response(Place::Middle), &[3; 256]);
        solo.response(3, read_response(Place::Last), &[4; 256]);
        assert_eq!(solo.node.bytes(256, 256), [PATTERN; 256]);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1, "once for the gap");
        assert_eq!(pdus[0].psn, Psn::new(1001));
        let source = range(4096 + 256, 768);
        assert_eq!(pdus[0].body, Body::Read { source });
        assert_eq!(solo.node.counter(Counter::ImpliedNakSeqErr), 1);
        solo.response(1, read_response(Place::First), &[2; 256]);
        solo.response(2, read_response(Place::Middle), &[3; 256]);
        solo.response(3, read_response(Place::Last), &[4; 256]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 1024)]);
    }

    #[test]
    fn an_acknowledgement_of_a_later_request_shows_the_loss() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.post(3, SEND, 0, 1);
        solo.run();
        solo.ack(2);
        assert_sends(&solo, &[Outcome::Success]);
        assert_eq!(solo.sent_psns(), [1, 2]);
    }

    #[test]
    fn wrong_responses_break_the_queue_pair() {
        let wrong: [(i32, Place, usize); 5] = [
            (0, Place::First, 255),
            (0, Place::First, 257),
            (0, Place::Only, 256),
            (1, Place::Middle, 44),
            (1, Place::Last, 45),
        ];
        for (psn, place, length) in wrong {
            let mut solo = Solo::new();
            solo.post(1, read_operation(0), 0, 300);
            solo.run();
            if psn == 1 {
                solo.response(0, read_response(Place::First), &[1; 256]);
            }
            solo.response(psn, read_response(place), &vec![9; length]);
            assert_sends(&solo, &[Outcome::BadResponse]);
            assert!(!solo.node.memory.contains(&9), "nothing was placed");
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn a_response_begins_with_its_first_packet() {
        for (place, length) in [(Place::Middle, 256), (Place::Last, 200)] {
            let mut solo = Solo::new();
            let all = if place == Place::Last { 200 } else { 600 };
            solo.post(1, read_operation(0), 0, all);
            solo.run();
            solo.response(0, read_response(place), &vec![9; length]);
            assert_sends(&solo, &[Outcome::BadResponse]);
            assert!(!solo.node.memory.contains(&9), "nothing was placed");
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn a_response_that_refuses_is_none() {
        for syndrome in [Syndrome::RnrNak(1), nak(NakCode::RemoteAccess)] {
            let mut solo = Solo::new();
            solo.post(1, read_operation(0), 0, 8);
            solo.run();
            let acknowledge = Acknowledge {
                syndrome,
                msn: Psn::new(1),
            };
            let body = Body::ReadResponse {
                place: Place::Only,
                acknowledge: Some(acknowledge),
            };
            solo.response(0, body, &[9; 8]);
            assert_sends(&solo, &[Outcome::BadResponse]);
            assert!(!solo.node.memory.contains(&9), "nothing was placed");
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn responses_to_other_requests_are_ignored() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.run();
        solo.response(0, read_response(Place::Only), &[1]);
        let acknowledge = Acknowledge {
            syndrome: ACK,
            msn: Psn::new(0),
        };
        let atomic = Body::AtomicResponse {
            acknowledge,
            original: 1,
        };
        solo.response(1, atomic, &[]);
        assert!(solo.node.sent.is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
    }

    #[test]
    fn local_memory_that_has_gone() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 1);
        solo.run();
        solo.node.regions.clear();
        solo.response(0, read_response(Place::Only), &[1]);
        assert_sends(&solo, &[Outcome::LocalProtection]);
        assert_broken(&mut solo);
    }
}

mod atomics {
    use super::*;

    #[test]
    fn compare_and_swap() {
        let mut solo = Solo::new();
        solo.node.memory[..8].copy_from_slice(&5u64.to_le_bytes());
        for (psn, compare, original) in [(0, 4, 5), (1, 5, 5), (2, 5, 77)] {
            let operation = AtomicOperation::CompareSwap { compare, swap: 77 };
            solo.request(psn, atomic_body(0, operation), &[]);
            let pdus = solo.pdus();
            let Body::AtomicResponse { original: got, .. } = pdus[0].body else {
                panic!("{pdus:?}");
            };
            assert_eq!(got, original);
        }
    }

    #[test]
    fn the_result_is_stored() {
        let mut solo = Solo::new();
        solo.post(1, atomic(4096, AtomicOperation::FetchAdd(1)), 16, 8);
        solo.run();
        let acknowledge = Acknowledge {
            syndrome: ACK,
            msn: Psn::new(1),
        };
        let original = 0x0102_0304_0506_0708;
        let body = Body::AtomicResponse {
            acknowledge,
            original,
        };
        solo.response(0, body, &[]);
        assert_eq!(solo.node.bytes(16, 8), original.to_le_bytes());
        assert_eq!(solo.node.bytes(24, 8), [PATTERN; 8]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 8)]);
    }

    #[test]
    fn a_result_that_refuses_is_none() {
        for syndrome in [Syndrome::RnrNak(1), nak(NakCode::RemoteAccess)] {
            let mut solo = Solo::new();
            solo.post(1, atomic(4096, AtomicOperation::FetchAdd(1)), 16, 8);
            solo.run();
            let acknowledge = Acknowledge {
                syndrome,
                msn: Psn::new(1),
            };
            let body = Body::AtomicResponse {
                acknowledge,
                original: 9,
            };
            solo.response(0, body, &[]);
            assert_sends(&solo, &[Outcome::BadResponse]);
            assert_eq!(solo.node.bytes(16, 8), [PATTERN; 8]);
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn unreachable_memory_is_an_operational_error() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        solo.request(0, atomic_body(0, AtomicOperation::FetchAdd(1)), &[]);
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}

mod duplicates {
    use super::*;

    #[test]
    fn of_sends_and_writes_are_acknowledged_again() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 8);
        solo.request(0, send(Place::Only), b"a");
        solo.run();
        solo.request(0, send(Place::Only), b"b");
        assert_eq!(solo.answers(), [(0, ACK)]);
        assert_eq!(solo.node.received.len(), 1);
        assert_eq!(solo.node.bytes(0, 1), b"a");
        assert_eq!(solo.node.counter(Counter::DuplicateRequest), 1);
    }

    #[test]
    fn of_reads_read_again() {
        let mut solo = Solo::new();
        solo.node.number(0, 1024);
        solo.request(
            0,
            Body::Read {
                source: range(0, 1024),
            },
            &[],
        );
        assert_eq!(solo.run().len(), 4);
        solo.node.memory[512] = 99;
        let rest = Body::Read {
            source: range(512, 512),
        };
        solo.request(2, rest, &[]);
        let packets = solo.run();
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].pdu.psn, Psn::new(2002));
        assert_eq!(packets[0].payload[0], 99);
        let place = |index: usize| match packets[index].pdu.body {
            Body::ReadResponse { place, .. } => place,
            _ => panic!("{packets:?}"),
        };
        assert_eq!((place(0), place(1)), (Place::First, Place::Last));
    }

    /// Queues a READ of four packets and sends two.
    fn half_answered() -> Solo {
        let mut solo = Solo::new();
        solo.node.room = 2;
        let source = range(0, 4 * MTU);
        solo.request(0, Body::Read { source }, &[]);
        assert_eq!(solo.poll_once(), 2);
        solo.out.clear();
        solo.node.room = usize::MAX;
        solo
    }

    fn places(pdus: &[Pdu]) -> Vec<(u32, Place)> {
        let mut places = Vec::new();
        for pdu in pdus {
            if let Body::ReadResponse { place, .. } = pdu.body {
                places.push((pdu.psn.get() - 2000, place));
            }
        }
        places
    }

    #[test]
    fn of_reads_do_not_restart_what_is_still_to_be_sent() {
        let mut solo = half_answered();
        let source = range(512, 512);
        solo.request(2, Body::Read { source }, &[]);
        assert_eq!(places(&solo.pdus()), [(2, Place::Middle), (3, Place::Last)]);
    }

    #[test]
    fn of_reads_restart_at_what_was_lost() {
        let mut solo = half_answered();
        let source = range(256, 768);
        solo.request(1, Body::Read { source }, &[]);
        let expected = [(1, Place::First), (2, Place::Middle), (3, Place::Last)];
        assert_eq!(places(&solo.pdus()), expected);
    }

    #[test]
    fn of_reads_that_ask_for_more_are_dropped() {
        let mut solo = Solo::new();
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        solo.run();
        solo.request(
            0,
            Body::Read {
                source: range(0, 257),
            },
            &[],
        );
        assert!(solo.run().is_empty());
    }

    #[test]
    fn of_reads_take_the_place_of_a_sequence_nak() {
        let mut solo = Solo::new();
        let read = Body::Read {
            source: range(0, 1),
        };
        solo.request(0, read, &[]);
        solo.run();
        solo.request(2, send(Place::Only), b"x");
        solo.request(0, read, &[]);
        assert_eq!(places(&solo.pdus()), [(0, Place::Only)]);
        // The NAK was not sent, so that the gap is still to be reported.
        solo.request(2, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(1, nak(NakCode::PsnSequence))]);
    }

    #[test]
    fn of_reads_whose_memory_has_gone_are_dropped() {
        let mut solo = Solo::new();
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        solo.run();
        solo.node.regions.clear();
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        assert!(solo.run().is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
    }

    /// The requester has had its data, and says so by a SEND that takes the key away, while the
    /// answer to a duplicate waits.
    #[test]
    fn of_reads_whose_memory_goes_while_they_wait_are_dropped() {
        let mut solo = Solo::new();
        let read = Body::Read {
            source: range(0, 1000),
        };
        solo.request(0, read, &[]);
        assert_eq!(solo.run().len(), 4);
        solo.node.room = 1;
        solo.request(0, read, &[]);
        assert_eq!(solo.poll_once(), 1);
        solo.out.clear();
        solo.node.room = usize::MAX;
        solo.node.post_receive(1, 0, 8);
        solo.request(4, send(Place::Only), b"a");
        solo.node.regions.clear();
        assert_eq!(solo.answers(), [(4, ACK)]);
        assert!(solo.node.events.is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
        assert_eq!(solo.node.counter(Counter::RespRemoteAccessErrors), 0);
        assert!(!solo.qp.has_work());
    }

    /// The network doubled a request; nobody has gone back, and nobody will ask again.
    #[test]
    fn leave_later_answers_alone() {
        let read = |solo: &mut Solo, psn| {
            let source = range(0, 1);
            solo.request(psn, Body::Read { source }, &[]);
        };
        let add = |solo: &mut Solo, psn| {
            let body = atomic_body(0, AtomicOperation::FetchAdd(1));
            solo.request(psn, body, &[]);
        };
        let mut solo = Solo::new();
        read(&mut solo, 0);
        add(&mut solo, 1);
        assert_eq!(solo.run().len(), 2);
        read(&mut solo, 2);
        add(&mut solo, 3);
        add(&mut solo, 1);
        read(&mut solo, 0);
        let pdus = solo.pdus();
        let psns: Vec<_> = pdus.iter().map(|pdu| pdu.psn.get() - 2000).collect();
        assert_eq!(psns, [0, 1, 2, 3]);
    }

    /// The requester waits as long as it is told, and not for a timeout.
    #[test]
    fn leave_an_rnr_nak_alone() {
        let mut solo = Solo::new();
        let read = Body::Read {
            source: range(0, 1),
        };
        solo.request(0, read, &[]);
        assert_eq!(solo.run().len(), 1);
        solo.request(1, send(Place::Only), b"x");
        solo.request(0, read, &[]);
        let pdus = solo.pdus();
        assert_eq!(places(&pdus), [(0, Place::Only)]);
        assert_eq!(pdus.len(), 2);
        let Body::Acknowledge(ack) = pdus[1].body else {
            panic!("{pdus:?}");
        };
        assert!(matches!(ack.syndrome, Syndrome::RnrNak(_)));
        assert_eq!(pdus[1].psn, Psn::new(2001));
    }

    #[test]
    fn of_atomics_are_answered_from_memory_of_the_first() {
        let mut solo = Solo::new();
        solo.node.memory[..8].fill(0);
        for psn in [0, 1, 0, 1, 1] {
            let operation = AtomicOperation::FetchAdd(10);
            solo.request(psn, atomic_body(0, operation), &[]);
            let pdus = solo.pdus();
            let Body::AtomicResponse { original, .. } = pdus[0].body else {
                panic!("{pdus:?}");
            };
            assert_eq!(original, 10 * psn as u64);
        }
        assert_eq!(solo.node.memory[0], 20, "each was executed once");
    }

    /// Four READs are answered, three are asked for again, and then their first responses arrive
    /// after all: the requester goes on while the answers to the duplicates wait.
    #[test]
    fn leave_room_for_new_requests() {
        let read = |solo: &mut Solo, psn| {
            let source = range(0, 1);
            solo.request(psn, Body::Read { source }, &[]);
        };
        let mut solo = Solo::new();
        (0..4).for_each(|psn| read(&mut solo, psn));
        assert_eq!(solo.run().len(), 4);
        (0..4).for_each(|psn| read(&mut solo, psn));
        (4..6).for_each(|psn| read(&mut solo, psn));
        let psns = places(&solo.pdus()).into_iter().map(|(psn, _)| psn);
        assert_eq!(psns.collect::<Vec<_>>(), [2, 3, 4, 5]);
        // There is no more room than that.
        (2..6).for_each(|psn| read(&mut solo, psn));
        (6..10).for_each(|psn| read(&mut solo, psn));
        assert_eq!(solo.qp.state(), State::Rts);
        read(&mut solo, 10);
        assert_broken(&mut solo);
    }

    #[test]
    fn do_not_pile_up() {
        let mut solo = Solo::new();
        solo.node.number(0, 1024);
        for psn in 0..40 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
            solo.run();
        }
        for psn in 0..40 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
        }
        assert_eq!(solo.run().len(), 4, "no more than the responder resources");
    }
}

mod keys {
    use super::*;

    /// On the direct path the data of a response is read after the call that sends it.
    #[test]
    fn change_before_responses_of_a_call_or_in_another_one() {
        let mut solo = Solo::new();
        let operation = LocalOperation::Invalidate(KEY);
        let read = Body::Read {
            source: range(0, 8),
        };
        solo.request(0, read, &[]);
        solo.post(1, SendOperation::Local(operation), 0, 0);
        assert_eq!(solo.poll_once(), 1);
        assert!(solo.node.local.is_empty() && solo.node.sent.is_empty());
        assert!(solo.qp.has_work());
        // More to answer does not keep it waiting.
        solo.request(1, read, &[]);
        assert_eq!(solo.poll_once(), 2);
        assert_eq!(solo.node.local, [operation]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 0)]);
    }
}
