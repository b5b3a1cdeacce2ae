//! What a responder accepts and refuses.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;

mod placement {
    use super::*;

    #[test]
    fn scatters_a_send() {
        let mut solo = Solo::new();
        solo.node.receives.push_back(ReceiveWork {
            domain: vrnic_firmware::transport::Domain::default(),
            cookie: 1,
            sges: [sge(100, 200), sge(50, 0), sge(1000, 400)]
                .into_iter()
                .collect(),
            invalid: None,
        });
        let data: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
        solo.request(0, send(Place::First), &data[..256]);
        let tail = SendTail::Immediate(0x0102_0304);
        let place = Place::Last;
        let mut last = packet(Psn::new(2001), 1, Body::Send { place, tail }, &data[256..]);
        last.pdu.solicited = true;
        solo.deliver(&last);
        assert_eq!(solo.node.bytes(100, 200), &data[..200]);
        assert_eq!(solo.node.bytes(1000, 100), &data[200..]);
        assert_eq!(solo.node.bytes(300, 700), [PATTERN; 700]);
        assert_eq!(solo.node.bytes(1100, 8), [PATTERN; 8]);
        let done = solo.node.received[0];
        assert_eq!((done.bytes, done.kind), (300, ReceiveKind::Send(tail)));
        assert!(done.solicited);
    }

    #[test]
    fn an_empty_send_needs_a_buffer_and_no_key() {
        let mut solo = Solo::new();
        solo.request(0, send(Place::Only), &[]);
        assert_eq!(solo.answers(), [(0, Syndrome::RnrNak(12))]);
        solo.node.receives.push_back(ReceiveWork {
            domain: vrnic_firmware::transport::Domain::default(),
            cookie: 1,
            sges: Default::default(),
            invalid: None,
        });
        solo.request(0, send(Place::Only), &[]);
        assert_receives(&solo, &[Outcome::Success]);
    }

    #[test]
    fn an_empty_write_and_an_empty_read_need_no_key() {
        let mut solo = Solo::new();
        let nowhere = RemoteRange {
            address: 1,
            rkey: 0xdead,
            length: 0,
        };
        let write = Body::Write {
            place: Place::Only,
            target: Some(nowhere),
            immediate: None,
        };
        solo.request(0, write, &[]);
        solo.request(1, Body::Read { source: nowhere }, &[]);
        let pdus = solo.pdus();
        assert_eq!((pdus.len(), pdus[0].length), (1, 0));
        assert!(matches!(
            pdus[0].body,
            Body::ReadResponse {
                place: Place::Only,
                ..
            }
        ));
    }

    #[test]
    fn a_send_can_invalidate_a_key() {
        let mut solo = Solo::new();
        solo.node.regions.insert(7, solo.node.regions[&KEY]);
        let tail = SendTail::Invalidate(7);
        let place = Place::Only;
        for psn in 0..2 {
            solo.node.post_receive(psn, 0, 8);
            solo.request(psn as i32, Body::Send { place, tail }, b"x");
        }
        assert_receives(&solo, &[Outcome::Success, Outcome::LocalAccess]);
        assert_eq!(solo.node.invalidated, [7, 7]);
        assert_eq!(solo.answers().pop(), Some((1, nak(NakCode::RemoteAccess))));
        assert_broken(&mut solo);
    }

    #[test]
    fn a_burst_is_taken_whole() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 4096);
        solo.requests(0, 3, send(Place::First), &[1; 768]);
        solo.requests(3, 2, send(Place::Last), &[2; 300]);
        assert_eq!(solo.answers(), [(4, ACK)]);
        assert_eq!(solo.node.received[0].bytes, 1068);
        // Seen before, even if it reaches further than what was seen.
        solo.requests(3, 3, send(Place::Last), &[3; 600]);
        assert_eq!(solo.answers(), [(4, ACK)]);
        assert_eq!(solo.node.bytes(768, 300), [2; 300]);
    }

    #[test]
    fn congestion_is_counted() {
        let mut solo = Solo::new();
        solo.request(0, Body::Congestion, &[]);
        assert_eq!(solo.node.counter(Counter::RpCnpHandled), 1);
        assert!(solo.qp.is_limited());
    }
}

mod invalid_request {
    use super::*;

    fn write(place: Place, target: Option<RemoteRange>) -> Body {
        Body::Write {
            place,
            target,
            immediate: None,
        }
    }

    /// After the requests before it, `last` must be refused.
    #[track_caller]
    fn refused(before: &[(Body, usize)], last: (Body, usize)) -> Solo {
        refused_by(Setup::default(), before, last)
    }

    #[track_caller]
    fn refused_by(setup: Setup, before: &[(Body, usize)], last: (Body, usize)) -> Solo {
        let mut solo = Solo::rts(setup);
        solo.post(1, SEND, 0, 1);
        solo.node.post_receive(1, 0, 1 << 10);
        solo.node.post_receive(2, 0, 1 << 10);
        let mut psn = 0;
        for &(body, length) in before {
            solo.request(psn, body, &vec![1; length]);
            psn += 1;
        }
        assert_eq!(solo.qp.state(), State::Rts, "{before:?}");
        solo.run();
        solo.request(psn, last.0, &vec![1; last.1]);
        assert_eq!(solo.qp.state(), State::Error, "{last:?}");
        assert_eq!(
            solo.answers(),
            [(psn, nak(NakCode::InvalidRequest))],
            "{last:?}"
        );
        assert_sends(&solo, &[Outcome::Flushed]);
        assert_broken(&mut solo);
        solo
    }

    #[test]
    fn out_of_turn() {
        let first = (send(Place::First), 256);
        let write_first = (write(Place::First, Some(range(0, 300))), 256);
        let read = (
            Body::Read {
                source: range(0, 1),
            },
            0,
        );
        let atomic = (atomic_body(0, AtomicOperation::FetchAdd(1)), 0);
        let write_only = (write(Place::Only, Some(range(0, 1))), 1);
        for last in [(send(Place::Middle), 256), (send(Place::Last), 1)] {
            refused(&[], last);
            refused(&[write_first], last);
        }
        for last in [
            (write(Place::Middle, None), 256),
            (write(Place::Last, None), 44),
        ] {
            refused(&[], last);
            refused(&[first], last);
        }
        for last in [first, (send(Place::Only), 1), write_only, read, atomic] {
            let solo = refused(&[first], last);
            // The receive work request in use says what happened, and no event does.
            assert_receives(&solo, &[Outcome::RemoteInvalidRequest, Outcome::Flushed]);
            assert!(solo.node.events.is_empty());
            let solo = refused(&[write_first], last);
            assert_eq!(solo.node.events, [QpEvent::RequestError]);
        }
    }

    #[test]
    fn packets_that_are_not_filled() {
        for length in [0, 255, 257] {
            refused(&[], (send(Place::First), length));
            refused(&[(send(Place::First), 256)], (send(Place::Middle), length));
        }
        for length in [0, 257] {
            refused(&[(send(Place::First), 256)], (send(Place::Last), length));
        }
        refused(&[], (send(Place::Only), 257));
    }

    #[test]
    fn a_write_of_another_length_than_announced() {
        for length in [2, 0] {
            refused(&[], (write(Place::Only, Some(range(0, 1))), length));
        }
        refused(&[], (write(Place::First, Some(range(0, 256))), 256));
        let first = (write(Place::First, Some(range(0, 300))), 256);
        for length in [43, 45] {
            refused(&[first], (write(Place::Last, None), length));
        }
        refused(&[first], (write(Place::Middle, None), 256));
    }

    #[test]
    fn longer_than_a_message_may_be() {
        let long = range(0, (1 << 31) + 1);
        refused(&[], (Body::Read { source: long }, 0));
        refused(&[], (write(Place::First, Some(long)), 256));
    }

    #[test]
    fn misaligned_atomics() {
        refused(&[], (atomic_body(4, AtomicOperation::FetchAdd(1)), 0));
    }

    #[test]
    fn what_the_queue_pair_does_not_allow() {
        let none = Setup {
            access: Access::empty(),
            ..Setup::default()
        };
        refused_by(
            none,
            &[],
            (
                Body::Read {
                    source: range(0, 1),
                },
                0,
            ),
        );
        refused_by(none, &[], (write(Place::Only, Some(range(0, 1))), 1));
        let solo = refused_by(none, &[], (atomic_body(0, AtomicOperation::FetchAdd(1)), 0));
        assert_eq!(solo.node.events, [QpEvent::RequestError]);
    }

    #[test]
    fn too_many_reads() {
        let mut solo = Solo::new();
        for psn in 0..5 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
        }
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 5, "the four before it are answered");
        let syndrome = nak(NakCode::InvalidRequest);
        let msn = Psn::new(4);
        assert_eq!(
            pdus[4].body,
            Body::Acknowledge(Acknowledge { syndrome, msn })
        );
        assert_broken(&mut solo);
    }

    #[test]
    fn a_send_longer_than_the_buffer() {
        for (before, last) in [
            (vec![], (send(Place::Only), 101)),
            (vec![(send(Place::First), 256)], (send(Place::Last), 45)),
        ] {
            let mut solo = Solo::new();
            let room = if before.is_empty() { 100 } else { 300 };
            solo.node.post_receive(1, 0, room);
            let psn = before.len() as i32;
            for (body, length) in before {
                solo.request(0, body, &vec![1; length]);
            }
            solo.run();
            solo.request(psn, last.0, &vec![1; last.1]);
            assert_eq!(solo.answers(), [(psn, nak(NakCode::InvalidRequest))]);
            assert_receives(&solo, &[Outcome::LocalLength]);
            assert_eq!(solo.node.bytes(u64::from(room), 8), [PATTERN; 8]);
            assert_eq!(solo.node.counter(Counter::RespLocalLengthError), 1);
            assert_broken(&mut solo);
        }
    }
}

mod remote_access {
    use super::*;

    #[track_caller]
    fn refused(body: Body, length: usize) {
        let mut solo = Solo::new();
        let mut region = solo.node.regions[&KEY];
        region.access = Access::LOCAL_READ | Access::LOCAL_WRITE;
        solo.node.regions.insert(7, region);
        solo.request(0, body, &vec![1; length]);
        assert_eq!(
            solo.answers(),
            [(0, nak(NakCode::RemoteAccess))],
            "{body:?}"
        );
        assert_eq!(solo.node.events, [QpEvent::AccessError]);
        assert_eq!(solo.node.counter(Counter::RespRemoteAccessErrors), 1);
        assert!(!solo.node.memory.contains(&1), "{body:?}");
        assert_broken(&mut solo);
    }

    #[test]
    fn needs_key_permission_and_bounds() {
        let end = 64 << 10;
        let bad = [
            (0x999, BASE, 8),
            (7, BASE, 8),
            (KEY, BASE + end - 8, 16),
            (KEY, BASE - 8, 16),
            (KEY, u64::MAX - 7, 16),
        ];
        for (rkey, address, length) in bad {
            let range = RemoteRange {
                address,
                rkey,
                length,
            };
            refused(Body::Read { source: range }, 0);
            let write = Body::Write {
                place: Place::Only,
                target: Some(range),
                immediate: None,
            };
            refused(write, length as usize);
        }
        for (rkey, address) in [(0x999, BASE), (7, BASE), (KEY, BASE + end)] {
            let operation = AtomicOperation::FetchAdd(1);
            let atomic = Body::Atomic {
                address,
                rkey,
                operation,
            };
            refused(atomic, 0);
        }
    }

    #[test]
    fn a_long_write_is_checked_before_its_first_byte() {
        let write = Body::Write {
            place: Place::First,
            target: Some(range((64 << 10) - 256, 300)),
            immediate: None,
        };
        refused(write, 256);
    }

    #[test]
    fn memory_that_goes_while_it_is_read() {
        let mut solo = Solo::new();
        solo.node.room = 1;
        solo.request(
            0,
            Body::Read {
                source: range(0, 4 * MTU),
            },
            &[],
        );
        solo.poll_once();
        solo.out.clear();
        solo.node.regions.clear();
        solo.node.room = usize::MAX;
        assert_eq!(solo.answers(), [(1, nak(NakCode::RemoteAccess))]);
        assert_eq!(solo.node.events, [QpEvent::AccessError]);
        assert_broken(&mut solo);
    }

    #[test]
    fn memory_that_cannot_be_read() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}

mod receive_errors {
    use super::*;

    #[track_caller]
    fn operational(change: impl Fn(&mut Solo), outcome: Outcome) {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 64);
        change(&mut solo);
        solo.request(0, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_receives(&solo, &[outcome]);
        assert!(solo.node.events.is_empty());
        assert_broken(&mut solo);
    }

    #[test]
    fn are_the_owners_fault() {
        let key = |solo: &mut Solo| solo.node.receives[0].sges[0].lkey = 0x999;
        operational(key, Outcome::LocalProtection);
        let dma = |solo: &mut Solo| solo.node.dma_limit = 0;
        operational(dma, Outcome::LocalProtection);
        let invalid = |solo: &mut Solo| {
            solo.node.receives[0].invalid = Some(Outcome::LocalQpOperation);
        };
        operational(invalid, Outcome::LocalQpOperation);
    }

    #[test]
    fn write_to_unreachable_memory() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        let write = Body::Write {
            place: Place::Only,
            target: Some(range(0, 1)),
            immediate: None,
        };
        solo.request(0, write, b"x");
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}
