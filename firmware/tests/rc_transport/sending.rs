//! What a requester sends, and when: segmentation, window, fences, local errors.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;

mod segmentation {
    use super::*;

    #[test]
    fn a_message_is_cut_into_packets() {
        let mut solo = Solo::new();
        solo.node.number(0, 1000);
        solo.post(1, write_operation(4096), 10, 600);
        let packets = solo.run();
        let places = [Place::First, Place::Middle, Place::Last];
        let lengths = [256, 256, 88];
        assert_eq!(packets.len(), 3);
        for (index, packet) in packets.iter().enumerate() {
            let Body::Write { place, target, .. } = packet.pdu.body else {
                panic!("{packet:?}");
            };
            assert_eq!(place, places[index]);
            assert_eq!(target, (index == 0).then(|| range(4096, 600)));
            assert_eq!(packet.pdu.length, lengths[index]);
            assert_eq!(packet.pdu.ack_request, index == 2);
            assert_eq!(packet.payload[0], mark(10 + 256 * index as u64));
        }
    }

    #[test]
    fn a_burst_is_one_pdu() {
        let setup = Setup {
            burst: 64,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, write_operation(0), 0, 16 << 10);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1);
        assert_eq!((pdus[0].packets, pdus[0].length), (64, 16 << 10));
        solo.ack(63);
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn requests_that_were_held_back_follow_without_a_doorbell() {
        let mut solo = Solo::new();
        solo.node.hand_out = 2;
        for cookie in 1..=5 {
            solo.post(cookie, SEND, 0, 1);
        }
        assert_eq!(solo.sent_psns(), [0, 1]);
        solo.ack(0);
        assert_eq!(solo.sent_psns(), [2]);
        solo.ack(2);
        assert_eq!(solo.sent_psns(), [3, 4]);
        solo.ack(4);
        assert_sends(&solo, &[Outcome::Success; 5]);
    }

    #[test]
    fn an_empty_message_is_one_packet() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 0);
        let pdus = solo.pdus();
        assert_eq!((pdus.len(), pdus[0].length), (1, 0));
        assert_eq!(pdus[0].body, send(Place::Only));
        solo.ack(0);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 0)]);
    }

    #[test]
    fn inline_data_needs_no_memory() {
        let mut solo = Solo::new();
        let mut work = work(1, SEND, 0, 0);
        work.sges.clear();
        work.inline = (0..300u32).map(|i| i as u8).collect();
        solo.node.sends.push_back(work);
        let packets = solo.run();
        assert_eq!(packets[1].payload.len(), 44);
        assert_eq!(packets[1].payload[0], 0);
    }

    #[test]
    fn solicited_and_immediate_stand_in_the_last_packet() {
        let mut solo = Solo::new();
        let tail = SendTail::Immediate(7);
        let mut work = work(1, SendOperation::Send(tail), 0, 2 * MTU);
        work.solicited = true;
        solo.node.sends.push_back(work);
        let pdus = solo.pdus();
        assert_eq!(pdus[0].body, send(Place::First));
        assert!(!pdus[0].solicited && pdus[1].solicited);
        let place = Place::Last;
        assert_eq!(pdus[1].body, Body::Send { place, tail });
    }

    #[test]
    fn nop_completes_in_its_turn() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, SendOperation::Nop, 0, 0);
        solo.run();
        assert!(solo.node.sent.is_empty());
        solo.ack(0);
        assert_sends(&solo, &[Outcome::Success; 2]);
        solo.post(3, SendOperation::Nop, 0, 0);
        solo.run();
        assert_sends(&solo, &[Outcome::Success; 3]);
    }

    #[test]
    fn the_window_bounds_what_is_outstanding() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 60_000);
        solo.post(2, SEND, 0, 60_000);
        let first = solo.pdus();
        assert_eq!(first.len(), 256);
        assert!(
            first[255].ack_request,
            "the peer is asked before the window closes"
        );
        assert!(!solo.qp.has_work());
        solo.ack(99);
        assert!(solo.run().len() >= 100);
    }

    #[test]
    fn messages_outstanding_are_bounded() {
        let mut solo = Solo::new();
        for cookie in 1..=300 {
            solo.post(cookie, read_operation(0), 0, 1);
        }
        solo.run();
        assert!(solo.node.handed.len() <= 256);
        assert_eq!(solo.node.sends.len() + solo.node.handed.len(), 300);
    }

    #[test]
    fn no_room_loses_nothing() {
        let mut solo = Solo::new();
        solo.node.room = 1;
        solo.post(1, SEND, 0, 3 * MTU);
        for psn in 0..3 {
            assert_eq!(solo.poll_once(), 1, "packet {psn}");
            assert_eq!(
                solo.out.pop().map(|p| p.pdu.psn),
                Some(Psn::new(1000 + psn))
            );
        }
    }
}

mod fence {
    use super::*;

    #[test]
    fn waits_for_reads_and_atomics() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 8);
        let mut fenced = work(2, SEND, 0, 8);
        fenced.fence = true;
        solo.node.sends.push_back(fenced);
        assert_eq!(solo.sent_psns(), [0]);
        assert!(!solo.qp.has_work());
        solo.response(0, read_response(Place::Only), &[1; 8]);
        assert_eq!(solo.sent_psns(), [1]);
    }

    #[test]
    fn does_not_wait_for_writes() {
        let mut solo = Solo::new();
        solo.post(1, write_operation(0), 0, 8);
        let mut fenced = work(2, SEND, 0, 8);
        fenced.fence = true;
        solo.node.sends.push_back(fenced);
        assert_eq!(solo.sent_psns(), [0, 1]);
    }
}

mod initiator_depth {
    use super::*;

    #[test]
    fn bounds_reads_in_flight() {
        let setup = Setup {
            depth: 2,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        for cookie in 1..=3 {
            solo.post(cookie, read_operation(0), 0, 1);
        }
        assert_eq!(solo.sent_psns(), [0, 1]);
        assert!(!solo.qp.has_work());
        solo.response(0, read_response(Place::Only), &[0]);
        assert_eq!(solo.sent_psns(), [2]);
    }

    #[test]
    fn of_zero_fails_the_request() {
        let setup = Setup {
            depth: 0,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, read_operation(0), 0, 1);
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::LocalQpOperation]);
        assert_broken(&mut solo);
    }
}

mod local_errors {
    use super::*;

    /// The outcome of one request after a good one, and whether anything of it was sent.
    #[track_caller]
    fn fails(change: impl Fn(&mut Solo), expected: Outcome) {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        change(&mut solo);
        solo.post(3, SEND, 0, 1);
        assert_eq!(solo.sent_psns(), [0], "nothing of it is sent");
        assert!(solo.node.sent.is_empty(), "it waits for its turn");
        solo.ack(0);
        solo.run();
        assert_sends(&solo, &[Outcome::Success, expected, Outcome::Flushed]);
        assert_eq!(solo.node.counter(Counter::ReqCqeError), 1);
        assert_broken(&mut solo);
    }

    #[test]
    fn protection() {
        let wrong_key = |solo: &mut Solo, operation, length| {
            let mut work = work(2, operation, 0, length);
            work.sges[0].lkey = 0x999;
            solo.node.sends.push_back(work);
        };
        for operation in [
            SEND,
            write_operation(0),
            read_operation(0),
            atomic(0, AtomicOperation::FetchAdd(1)),
        ] {
            for length in [8, 1000] {
                fails(
                    |solo| wrong_key(solo, operation, length),
                    Outcome::LocalProtection,
                );
            }
        }
    }

    #[test]
    fn bounds() {
        let outside = |solo: &mut Solo| solo.post(2, SEND, (64 << 10) - 300, 301);
        fails(outside, Outcome::LocalProtection);
        let wraps = |solo: &mut Solo| {
            let mut work = work(2, SEND, 0, 300);
            work.sges[0].address = u64::MAX - 10;
            solo.node.sends.push_back(work);
        };
        fails(wraps, Outcome::LocalProtection);
    }

    #[test]
    fn a_read_needs_local_write() {
        let read_only = |solo: &mut Solo| {
            let mut region = solo.node.regions[&KEY];
            region.access = Access::LOCAL_READ;
            solo.node.regions.insert(7, region);
            let mut work = work(2, read_operation(0), 0, 8);
            work.sges[0].lkey = 7;
            solo.node.sends.push_back(work);
        };
        fails(read_only, Outcome::LocalProtection);
    }

    #[test]
    fn length() {
        let huge = |solo: &mut Solo| {
            let mut work = work(2, SEND, 0, 1 << 31);
            work.sges.push(sge(0, 1));
            solo.node.sends.push_back(work);
        };
        fails(huge, Outcome::LocalLength);
        let short = |solo: &mut Solo| {
            solo.post(2, atomic(0, AtomicOperation::FetchAdd(1)), 0, 7);
        };
        fails(short, Outcome::LocalLength);
    }

    #[test]
    fn what_the_front_end_refused() {
        let invalid = SendOperation::Invalid(Outcome::LocalQpOperation);
        fails(
            |solo| solo.post(2, invalid, 0, 0),
            Outcome::LocalQpOperation,
        );
    }

    #[test]
    fn memory_that_cannot_be_read() {
        let unreachable = |solo: &mut Solo| {
            solo.node.dma_limit = 4096;
            solo.post(2, SEND, 4000, 200);
        };
        fails(unreachable, Outcome::LocalProtection);
    }

    #[test]
    fn at_once_if_nothing_is_before_it() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 64 << 10, 1);
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::LocalProtection]);
        assert_broken(&mut solo);
    }

    #[test]
    fn of_the_senders_memory_found_by_the_receiver() {
        // The receiving side is not hurt and can take the message later.
        let mut receiver = Solo::new();
        receiver.node.post_receive(1, 0, 64);
        let mut lost = packet(Psn::new(2000), 1, send(Place::Only), b"abc");
        lost.lost_source = true;
        receiver.deliver(&lost);
        assert_eq!(receiver.qp.state(), State::Rts);
        assert!(receiver.answers().is_empty());
        receiver.request(0, send(Place::Only), b"abc");
        assert_receives(&receiver, &[Outcome::Success]);
        assert_eq!(receiver.node.bytes(0, 4), [b'a', b'b', b'c', PATTERN]);
        // The sending side fails as it would have on the wire.
        let setup = Setup {
            burst: 64,
            ..Setup::default()
        };
        let mut sender = Solo::rts(setup);
        for cookie in 1..4 {
            sender.post(cookie, SEND, 0, 3);
        }
        let sent = sender.run();
        sender.unreadable(&sent[1]);
        assert_sends(&sender, &[]);
        sender.ack(0);
        let expected = [Outcome::Success, Outcome::LocalProtection, Outcome::Flushed];
        assert_sends(&sender, &expected);
    }
}

mod fairness {
    use super::*;

    #[test]
    fn a_long_read_leaves_room_for_requests() {
        let mut solo = Solo::new();
        solo.request(
            0,
            Body::Read {
                source: range(0, 60_000),
            },
            &[],
        );
        solo.post(1, SEND, 0, 60_000);
        solo.poll_once();
        let (mut answers, mut requests) = (0, 0);
        for packet in &solo.out {
            match packet.pdu.body {
                Body::ReadResponse { .. } => answers += 1,
                _ => requests += 1,
            }
        }
        assert!(answers > 0 && requests > 0, "{answers} {requests}");
    }
}
